-- Members' sessions, invitations and second factors; what operators know of an enterprise.

alter table members add column revision bigint not null default 1;
alter table members add column update_time timestamptz;
update members set update_time = create_time;
alter table members alter column update_time set not null;

-- A member's login, from which access tokens are made until it ends. To end it is to delete it.
create table sessions (
  enterprise text not null,
  id text not null,
  member text not null,
  acts_for text not null,
  user_agent text not null,
  address text not null,
  create_time timestamptz not null,
  use_time timestamptz not null,
  expire_time timestamptz not null,
  primary key (enterprise, id),
  foreign key (enterprise, member) references members (enterprise, name) on delete cascade
);
create index sessions_of_member on sessions (enterprise, member, create_time, id);
create index sessions_by_expiry on sessions (expire_time);
select chassis_tenant_table('sessions');

-- The refresh tokens of a session, as SHA-256. All but one are used: whoever shows one of those has stolen it, or was robbed.
create table refresh_tokens (
  enterprise text not null,
  hash bytea not null,
  session text not null,
  use_time timestamptz,
  primary key (enterprise, hash),
  foreign key (enterprise, session) references sessions (enterprise, id) on delete cascade
);
create index refresh_tokens_by_hash on refresh_tokens (hash);
create index refresh_tokens_of_session on refresh_tokens (enterprise, session);
select chassis_tenant_table('refresh_tokens');

-- Tries to log in that failed, or have not ended yet. Of no enterprise: an address that nobody has is slowed down as any other.
-- The key is a hash, so that the table is no list of addresses.
create table login_tries (
  key bytea primary key,
  count int not null,
  next_time timestamptz not null,
  forget_time timestamptz not null
);
create index login_tries_by_age on login_tries (forget_time);
