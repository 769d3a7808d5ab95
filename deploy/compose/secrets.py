"""The files under `secrets:` in docker-compose.yml: made up once, and kept."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from deploy.local.keys import Keys
from deploy.local.programs import SERVICES
from deploy.local.stubs import ROOT
from deploy.sandbox.users import WEIBO_KEY, WEIBO_SECRET


def make_secrets(folder: Path, sandbox_url: str) -> None:
    """
    Make what is missing. Keys and passwords that are there stay; one may put one's own there beforehand.

    Only the owner can enter the folder. The files themselves are readable by all, because each is mounted alone into
    containers whose user is not the owner.

    Args:
        folder: where they are.
        sandbox_url: of the sandbox network, which is the Weibo that accounts knows until somebody tells of the real one.
    """
    keys = Keys(folder)
    postgres, broker = quote(keys.password("postgres")), quote(keys.broker_password("administrator"))
    urls = {
        "database-admin-url": f"postgresql://postgres:{postgres}@postgres:5432/numerator",
        "rabbitmq-management-url": f"http://administrator:{broker}@rabbitmq:15672",
        "broker-amqp-url": f"amqp://administrator:{broker}@rabbitmq:5672/%2F",
    }
    for service in SERVICES:
        password = quote(keys.database_password(service))
        urls[f"{service}-database-url"] = f"postgresql://{service}:{password}@postgres:5432/numerator"
    for user in (*SERVICES, "gateway"):
        password = quote(keys.broker_password(user))
        urls[f"{user}-amqp-url"] = f"amqp://{user}:{password}@rabbitmq:5672/%2F"
    for name, url in urls.items():
        (folder / name).write_text(url)
    if not (apps := folder / "weibo-apps").exists():
        app = {"client_id": WEIBO_KEY, "client_secret": WEIBO_SECRET}
        apps.write_text(json.dumps({sandbox_url: app}))
    # In a process of its own: it reads the workers, and with them comes eventlet.
    subprocess.run(
        [sys.executable, "-m", "deploy.rabbitmq", "render", "--secrets", folder, "--to", folder / "rabbitmq-definitions"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    for path in folder.iterdir():
        path.chmod(0o644)
