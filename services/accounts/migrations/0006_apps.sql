-- Access tokens that are refused before they expire, until the last of them has.
-- Of no enterprise: gateways, which refuse the tokens, serve all of them.
create sequence revocation_sequence;
create table revocations (
  subject text primary key,
  revoke_time timestamptz not null,
  expire_time timestamptz not null,
  sequence bigint not null unique
);
create index revocations_by_expiry on revocations (expire_time);

-- Revokes. The lock is held until the commit and the number is drawn under it, so nobody can see a number and find a smaller one
-- later. The time is the clock's, not the transaction's: whoever read the subject before has an earlier one.
create function revoke(subject text, expire_time timestamptz) returns void language sql as $$
  select pg_advisory_xact_lock(hashtext(current_schema() || ' revocations'));
  insert into revocations as known (subject, revoke_time, expire_time, sequence)
    values (subject, clock_timestamp(), expire_time, nextval('revocation_sequence'))
    on conflict on constraint revocations_pkey do update set
      revoke_time = excluded.revoke_time,
      expire_time = greatest(known.expire_time, excluded.expire_time),
      sequence = excluded.sequence
$$;

-- old_secret_*: the secret before the present one, while it works. Times of use are to the hour.
alter table clients
  add column revision bigint not null default 1,
  add column last_use_time timestamptz,
  add column old_secret_hash bytea,
  add column old_secret_end_time timestamptz,
  add column old_secret_use_time timestamptz,
  add check (num_nonnulls(old_secret_hash, old_secret_end_time) <> 1);
create index clients_old_secrets on clients (old_secret_end_time) where old_secret_hash is not null;

-- Scopes that a client has for some groups of accounts only.
create table client_grants (
  enterprise text not null,
  client text not null,
  scope text not null,
  group_id text not null,
  primary key (enterprise, client, scope, group_id),
  foreign key (enterprise, client) references clients (enterprise, name) on delete cascade,
  foreign key (enterprise, group_id) references account_groups (enterprise, id) on delete cascade
);
create index client_grants_by_group on client_grants (enterprise, group_id);
select chassis_tenant_table('client_grants');
