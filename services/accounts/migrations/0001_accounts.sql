-- Enterprises, their people and apps, and the accounts that they bound.
-- An enterprise's own name is the tenant, so it is the key of its row.

create table enterprises (
  enterprise text primary key,
  display_name text not null,
  industry text not null,
  region text not null,
  verification text not null
    check (verification in ('NOT_REQUESTED', 'PENDING', 'VERIFIED', 'REJECTED', 'REVOKED')),
  verification_note text not null,
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null
);
create index enterprises_by_age on enterprises (create_time, enterprise);
select chassis_tenant_table('enterprises');

create table members (
  enterprise text not null references enterprises,
  name text not null,
  email text not null,
  display_name text not null,
  role text not null check (role in ('OWNER', 'ADMIN', 'EDITOR', 'RESPONDER', 'ANALYST')),
  password_hash text not null,
  create_time timestamptz not null,
  primary key (enterprise, name)
);
-- Unique over all enterprises on purpose: it is what a person logs in with. That an address is taken is told.
create unique index members_email on members (email);
create index members_by_age on members (enterprise, create_time, name);
select chassis_tenant_table('members');

create table clients (
  enterprise text not null references enterprises,
  name text not null,
  client_id text not null,
  display_name text not null,
  scopes text[] not null,
  secret_hash bytea not null,
  create_time timestamptz not null,
  primary key (enterprise, name)
);
create index clients_by_id on clients (client_id);
create index clients_by_age on clients (enterprise, create_time, name);
select chassis_tenant_table('clients');

-- Each enterprise's key for its secrets, wrapped by the master key with this id. To delete it is to shred them.
create table data_keys (
  enterprise text not null references enterprises,
  version int not null,
  master_key text not null,
  wrapped bytea not null,
  create_time timestamptz not null,
  primary key (enterprise, version)
);
select chassis_tenant_table('data_keys');

-- What a server knows us as: one registration for all enterprises. Its secret is sealed by the master key.
create table applications (
  server text not null,
  redirect_uri text not null,
  client_id text not null,
  master_key text not null,
  sealed_secret bytea not null,
  authorize_endpoint text not null,
  token_endpoint text not null,
  revoke_endpoint text not null,
  create_time timestamptz not null,
  primary key (server, redirect_uri),
  unique (server, client_id)
);

create table accounts (
  enterprise text not null references enterprises,
  name text not null,
  network text not null,
  server text not null,
  network_account_id text not null,
  handle text not null,
  display_name text not null,
  software text not null,
  software_version text not null,
  labels text[] not null,
  state text not null check (state in ('ACTIVE', 'REAUTH_REQUIRED', 'REVOKED')),
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  authorize_time timestamptz not null,
  primary key (enterprise, name),
  unique (enterprise, server, network_account_id)
);
-- Unique over all enterprises on purpose: only one may act for an account. Who does is not told.
create unique index accounts_held on accounts (server, network_account_id) where state <> 'REVOKED';
create index accounts_by_age on accounts (enterprise, create_time, name);
select chassis_tenant_table('accounts');

-- Apart from accounts, so that no list ever reads them. An unbound account has none.
create table tokens (
  enterprise text not null,
  account text not null,
  client_id text not null,
  key_version int not null,
  sealed bytea not null,
  update_time timestamptz not null,
  primary key (enterprise, account),
  foreign key (enterprise, account) references accounts (enterprise, name),
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
select chassis_tenant_table('tokens');

-- Bindings between start and completion. The state itself is only in the redirect; here is its SHA-256.
create table bindings (
  enterprise text not null references enterprises,
  state_hash bytea not null,
  caller text not null,
  network text not null,
  server text not null,
  redirect_uri text not null,
  labels text[] not null,
  key_version int not null,
  sealed_verifier bytea not null,
  expire_time timestamptz not null,
  claim_time timestamptz,
  request_id text not null default '',
  account text,
  primary key (enterprise, state_hash),
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index bindings_by_expiry on bindings (expire_time);
select chassis_tenant_table('bindings');

-- Who did what to whom. Only grows.
create table audit (
  enterprise text not null,
  sequence bigint generated always as identity,
  time timestamptz not null,
  actor text not null,
  action text not null,
  subject text not null,
  detail jsonb not null,
  primary key (enterprise, sequence)
);
select chassis_tenant_table('audit');

create function audit_only_grows() returns trigger language plpgsql as $$
begin
  raise exception 'the audit trail only grows';
end
$$;
create trigger audit_only_grows before update or delete or truncate on audit
  for each statement execute function audit_only_grows();
