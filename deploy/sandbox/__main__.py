"""`python -m deploy.sandbox`."""

from deploy.sandbox.app import serve
from deploy.sandbox.settings import SandboxSettings

if __name__ == "__main__":
    serve(SandboxSettings())
