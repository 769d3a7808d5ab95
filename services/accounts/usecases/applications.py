"""What servers of networks know us as: kept once for all enterprises, with its secret sealed by the master key."""

from collections.abc import Mapping

from pydantic import SecretStr

from services.accounts import store
from services.accounts.networks import Application, Network
from services.accounts.vault import Kms
from services.chassis.database import Transaction


class Applications:
    """Finds and keeps applications. One instance serves all threads."""

    def __init__(self, networks: Mapping[str, Network], kms: Kms, redirect_uri: str) -> None:
        self._networks = networks
        self._kms = kms
        self._redirect_uri = redirect_uri

    def known(self, tx: Transaction, network: str, server: str, redirect_uri: str = "") -> Application | None:
        """What a server knows us as already, where it redirects to this URI, by default our own."""
        uri = redirect_uri or self._redirect_uri
        by_hand = self._networks[network].known_servers
        if by_hand is not None:
            return self._networks[network].register(server, uri) if server in by_hand else None
        kept = store.find_application(tx, server, uri)
        return self._open(kept) if kept else None

    def of_token(self, tx: Transaction, network: str, server: str, client_id: str) -> Application | None:
        """The application that a token was given to; None when the server knows us as another one by now."""
        if self._networks[network].known_servers is not None:
            known = self.known(tx, network, server)
            return known if known and known.client_id == client_id else None
        kept = store.find_application_by_id(tx, server, client_id)
        return self._open(kept) if kept else None

    def keep(self, tx: Transaction, application: Application) -> Application:
        """Keep what a server has just come to know us as, and return what to use: that of another process, when it was first."""
        return self._open(store.insert_application(tx, self._seal(application)))

    def _seal(self, application: Application) -> store.SealedApplication:
        secret = application.client_secret.get_secret_value().encode()
        return store.SealedApplication(
            server=application.server,
            redirect_uri=application.redirect_uri,
            client_id=application.client_id,
            master_key=self._kms.key_id,
            sealed_secret=self._kms.wrap(secret, application.server, application.client_id),
            authorize_endpoint=application.authorize_endpoint,
            token_endpoint=application.token_endpoint,
            revoke_endpoint=application.revoke_endpoint,
            issuer=application.issuer,
            names_issuer=application.names_issuer,
            pkce=application.pkce,
        )

    def _open(self, kept: store.SealedApplication) -> Application:
        secret = self._kms.unwrap(kept.master_key, kept.sealed_secret, kept.server, kept.client_id)
        return Application(
            server=kept.server,
            redirect_uri=kept.redirect_uri,
            client_id=kept.client_id,
            client_secret=SecretStr(secret.decode()),
            authorize_endpoint=kept.authorize_endpoint,
            token_endpoint=kept.token_endpoint,
            revoke_endpoint=kept.revoke_endpoint,
            issuer=kept.issuer,
            names_issuer=kept.names_issuer,
            pkce=kept.pkce,
        )
