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
