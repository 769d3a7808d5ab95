"""Every SQL statement of accounts, by subject. Model objects in and out."""

from services.accounts.store.accounts import (
    count_accounts as count_accounts,
)
from services.accounts.store.accounts import (
    count_held as count_held,
)
from services.accounts.store.accounts import (
    find_bound as find_bound,
)
from services.accounts.store.accounts import (
    get_account as get_account,
)
from services.accounts.store.accounts import (
    has_account_on as has_account_on,
)
from services.accounts.store.accounts import (
    list_accounts as list_accounts,
)
from services.accounts.store.accounts import (
    lock_account as lock_account,
)
from services.accounts.store.accounts import (
    lock_and_count_held as lock_and_count_held,
)
from services.accounts.store.accounts import (
    lock_network_account as lock_network_account,
)
from services.accounts.store.accounts import (
    save_account as save_account,
)
from services.accounts.store.bindings import (
    Binding as Binding,
)
from services.accounts.store.bindings import (
    binding_name as binding_name,
)
from services.accounts.store.bindings import (
    claim_binding as claim_binding,
)
from services.accounts.store.bindings import (
    complete_binding as complete_binding,
)
from services.accounts.store.bindings import (
    find_binding as find_binding,
)
from services.accounts.store.bindings import (
    insert_binding as insert_binding,
)
from services.accounts.store.bindings import (
    purge_bindings as purge_bindings,
)
from services.accounts.store.clients import (
    list_clients as list_clients,
)
from services.accounts.store.enterprises import (
    count_enterprises as count_enterprises,
)
from services.accounts.store.enterprises import (
    get_enterprise as get_enterprise,
)
from services.accounts.store.enterprises import (
    insert_enterprise as insert_enterprise,
)
from services.accounts.store.enterprises import (
    list_enterprises as list_enterprises,
)
from services.accounts.store.enterprises import (
    lock_enterprise as lock_enterprise,
)
from services.accounts.store.enterprises import (
    update_enterprise as update_enterprise,
)
from services.accounts.store.members import (
    Login as Login,
)
from services.accounts.store.members import (
    find_login as find_login,
)
from services.accounts.store.members import (
    insert_member as insert_member,
)
from services.accounts.store.members import (
    list_members as list_members,
)
from services.accounts.store.rows import (
    BEGINNING as BEGINNING,
)
from services.accounts.store.rows import (
    After as After,
)
from services.accounts.store.rows import (
    Row as Row,
)
from services.accounts.store.rows import (
    only as only,
)
from services.accounts.store.secrets import (
    SealedApplication as SealedApplication,
)
from services.accounts.store.secrets import (
    SealedToken as SealedToken,
)
from services.accounts.store.secrets import (
    WrappedKey as WrappedKey,
)
from services.accounts.store.secrets import (
    find_application as find_application,
)
from services.accounts.store.secrets import (
    find_application_by_id as find_application_by_id,
)
from services.accounts.store.secrets import (
    get_data_key as get_data_key,
)
from services.accounts.store.secrets import (
    insert_application as insert_application,
)
from services.accounts.store.secrets import (
    insert_data_key as insert_data_key,
)
from services.accounts.store.secrets import (
    newest_data_key as newest_data_key,
)
from services.accounts.store.secrets import (
    save_token as save_token,
)
from services.accounts.store.secrets import (
    take_token as take_token,
)
from services.accounts.store.trail import (
    audit as audit,
)
