-- Seals over the audit trail: the links of a hash chain, see usecases/sealing.py. Appending to the trail waits for nobody; what was
-- appended is sealed within a second or so.

-- What no seal covers yet: written with the entry, in one transaction.
create table audit_unsealed (
  enterprise text not null,
  sequence bigint not null,
  primary key (enterprise, sequence)
);
select chassis_tenant_table('audit_unsealed');
insert into audit_unsealed select enterprise, sequence from audit;

create function audit_unsealed() returns trigger language plpgsql as $$
begin
  insert into audit_unsealed (enterprise, sequence) values (new.enterprise, new.sequence);
  return null;
end
$$;
create trigger audit_unsealed after insert on audit for each row execute function audit_unsealed();

-- Of no enterprise: one chain over the entries of all. entries: their sequence numbers, in the order in which they are hashed.
create table audit_seals (
  number bigint primary key,
  time timestamptz not null,
  entries bigint[] not null,
  previous_hash text not null,
  hash text not null
);
create index audit_by_sequence on audit (sequence);
revoke update, delete, truncate on audit_seals from accounts;
