"""The files under `secrets:` in docker-compose.yml: made up once, and kept."""

from pathlib import Path
from urllib.parse import quote

from deploy.local.keys import Keys
from deploy.local.programs import SERVICES


def make_secrets(folder: Path) -> None:
    """
    Make what is missing. What is there stays, so that one may put files of one's own there beforehand.

    Only the owner can enter the folder. The files themselves are readable by all, because each is mounted alone into
    containers whose user is not the owner.
    """
    keys = Keys(folder)
    postgres = keys.password("postgres")
    urls = {"database-admin-url": f"postgresql://postgres:{quote(postgres)}@postgres:5432/numerator"}
    for service in SERVICES:
        password = quote(keys.database_password(service))
        urls[f"{service}-database-url"] = f"postgresql://{service}:{password}@postgres:5432/numerator"
    for user in (*SERVICES, "gateway"):
        password = quote(keys.broker_password(user))
        urls[f"{user}-amqp-url"] = f"amqp://{user}:{password}@rabbitmq:5672/%2F"
    for name, url in urls.items():
        (folder / name).write_text(url)
    for path in folder.iterdir():
        path.chmod(0o444)
