"""What several processes of accounts are made of."""

from collections.abc import Mapping

from services.accounts.networks import Network
from services.accounts.networks.mastodon import MastodonNetwork
from services.accounts.networks.weibo import WeiboNetwork
from services.accounts.settings import Settings


def open_networks(settings: Settings) -> Mapping[str, Network]:
    """The networks whose accounts can be bound, by their kind."""
    apps = {server: (app.client_id, app.client_secret) for server, app in settings.weibo_apps.items()}
    return {"mastodon": MastodonNetwork(), "weibo": WeiboNetwork(apps)}
