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

-- Invitations of members, until they are accepted or revoked. The token itself is only in the answer; here is its SHA-256.
create table member_invitations (
  enterprise text not null references enterprises,
  name text not null,
  token_hash bytea not null,
  email text not null,
  role text not null check (role in ('OWNER', 'ADMIN', 'EDITOR', 'RESPONDER', 'ANALYST')),
  inviter text not null,
  create_time timestamptz not null,
  expire_time timestamptz not null,
  primary key (enterprise, name)
);
create index member_invitations_by_token on member_invitations (token_hash);
create index member_invitations_by_age on member_invitations (enterprise, create_time, name);
create index member_invitations_by_inviter on member_invitations (enterprise, inviter);
create index member_invitations_by_expiry on member_invitations (expire_time);
select chassis_tenant_table('member_invitations');

-- Second factors (RFC 6238). last_step: the 30 seconds of the newest code that was used; no code works twice.
alter table enterprises add column second_factor_required boolean not null default false;
alter table members add column totp_enabled boolean not null default false;
create table second_factors (
  enterprise text not null,
  member text not null,
  key_version int not null,
  sealed_seed bytea not null,
  last_step bigint not null,
  create_time timestamptz not null,
  primary key (enterprise, member),
  foreign key (enterprise, member) references members (enterprise, name) on delete cascade,
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index second_factors_by_key on second_factors (enterprise, key_version);
select chassis_tenant_table('second_factors');

create table recovery_codes (
  enterprise text not null,
  member text not null,
  hash bytea not null,
  primary key (enterprise, member, hash),
  foreign key (enterprise, member) references second_factors (enterprise, member) on delete cascade
);
select chassis_tenant_table('recovery_codes');

-- What operators say of an enterprise, for the audiences of rollouts; and what they say to each other, which it is not told.
alter table enterprises add column tier text not null default '';
alter table enterprises add column attributes jsonb not null default '{}';
create table review_notes (
  enterprise text not null references enterprises,
  name text not null,
  author text not null,
  text text not null,
  create_time timestamptz not null,
  primary key (enterprise, name)
);
create index review_notes_by_age on review_notes (enterprise, create_time, name);
select chassis_tenant_table('review_notes');
