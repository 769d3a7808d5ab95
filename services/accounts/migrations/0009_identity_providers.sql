-- Logins of members at their enterprise's own identity provider (OpenID Connect).

create table identity_providers (
  enterprise text primary key references enterprises,
  issuer text not null,
  client_id text not null,
  key_version int not null,
  sealed_secret bytea not null,
  required boolean not null,
  email_domains text[] not null, -- empty: all
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index identity_providers_by_key on identity_providers (enterprise, key_version);
select chassis_tenant_table('identity_providers');

-- Which user of the provider a member is. Another provider knows other users: then the links are deleted.
create table identity_links (
  enterprise text not null references identity_providers on delete cascade,
  member text not null,
  subject text not null,
  create_time timestamptz not null,
  primary key (enterprise, member),
  unique (enterprise, subject),
  foreign key (enterprise, member) references members (enterprise, name) on delete cascade
);
select chassis_tenant_table('identity_links');

-- Logins between start and completion. State and the browser's secret are kept as SHA-256.
create table oidc_logins (
  enterprise text not null references identity_providers on delete cascade,
  state_hash bytea not null,
  browser_hash bytea not null,
  nonce text not null,
  key_version int not null,
  sealed_verifier bytea not null,
  expire_time timestamptz not null,
  use_time timestamptz,
  primary key (enterprise, state_hash),
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index oidc_logins_by_key on oidc_logins (enterprise, key_version);
create index oidc_logins_by_expiry on oidc_logins (expire_time);
select chassis_tenant_table('oidc_logins');

-- Whether the identity provider opened it, not a password.
alter table sessions add column by_provider boolean not null default false;
