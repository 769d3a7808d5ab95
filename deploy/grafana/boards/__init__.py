"""The boards. A new service is a line in `services.py`; a new board is a module, and a line here."""

from deploy.grafana.boards import broker, business, gateway, overview, services
from deploy.grafana.panels import Board

BOARDS: tuple[Board, ...] = (
    overview.BOARD,
    business.BOARD,
    gateway.BOARD,
    *services.BOARDS,
    broker.BOARD,
)
"""All boards, in the order in which they are listed."""
