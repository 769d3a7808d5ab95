"""The rules of accounts: states and their transitions, roles, scopes, addresses. Pure."""

from services.accounts.model.accounts import (
    ACCOUNT_NAME as ACCOUNT_NAME,
)
from services.accounts.model.accounts import (
    ACCOUNT_STEPS as ACCOUNT_STEPS,
)
from services.accounts.model.accounts import (
    Account as Account,
)
from services.accounts.model.accounts import (
    AccountState as AccountState,
)
from services.accounts.model.accounts import (
    AccountStep as AccountStep,
)
from services.accounts.model.accounts import (
    Profile as Profile,
)
from services.accounts.model.bindings import (
    BINDING_LIFE as BINDING_LIFE,
)
from services.accounts.model.bindings import (
    BindingRefusedError as BindingRefusedError,
)
from services.accounts.model.bindings import (
    account_bound_elsewhere as account_bound_elsewhere,
)
from services.accounts.model.bindings import (
    binding_refused as binding_refused,
)
from services.accounts.model.clients import (
    CLIENT_NAME as CLIENT_NAME,
)
from services.accounts.model.clients import (
    CLIENT_SCOPES as CLIENT_SCOPES,
)
from services.accounts.model.clients import (
    NETWORK_SCOPES as NETWORK_SCOPES,
)
from services.accounts.model.clients import (
    Client as Client,
)
from services.accounts.model.clients import (
    check_scopes as check_scopes,
)
from services.accounts.model.enterprises import (
    ENTERPRISE_NAME as ENTERPRISE_NAME,
)
from services.accounts.model.enterprises import (
    VERIFICATION_STEPS as VERIFICATION_STEPS,
)
from services.accounts.model.enterprises import (
    Enterprise as Enterprise,
)
from services.accounts.model.enterprises import (
    Verification as Verification,
)
from services.accounts.model.enterprises import (
    VerificationStep as VerificationStep,
)
from services.accounts.model.etags import (
    check_etag as check_etag,
)
from services.accounts.model.etags import (
    etag_of as etag_of,
)
from services.accounts.model.identity import (
    Identity as Identity,
)
from services.accounts.model.identity import (
    credentials_invalid as credentials_invalid,
)
from services.accounts.model.members import (
    MEMBER_NAME as MEMBER_NAME,
)
from services.accounts.model.members import (
    PASSWORD_LENGTH as PASSWORD_LENGTH,
)
from services.accounts.model.members import (
    Member as Member,
)
from services.accounts.model.members import (
    Role as Role,
)
from services.accounts.model.members import (
    check_grant as check_grant,
)
from services.accounts.model.members import (
    check_password as check_password,
)
from services.accounts.model.members import (
    email_taken as email_taken,
)
from services.accounts.model.members import (
    normal_email as normal_email,
)
from services.accounts.model.servers import (
    normal_server as normal_server,
)
