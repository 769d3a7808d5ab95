-- Keys that rotate, and keys that are shredded.

-- A shredded key leaves its row behind, so that what it sealed says why it does not open, and its version is not used again.
alter table data_keys
  alter column wrapped drop not null,
  add column shred_time timestamptz,
  add constraint data_keys_shredded check ((wrapped is null) = (shred_time is not null));

-- A rotation looks for what an old key has sealed, and so does the foreign key when the old key is deleted.
create index tokens_by_key on tokens (enterprise, key_version);
create index bindings_by_key on bindings (enterprise, key_version);

-- Rotations of data keys that have begun and not ended, by whose keys they rotate: an enterprise's, or all ('').
create table key_rotations (
  whose text primary key,
  begin_time timestamptz not null
);

-- What the audit trail is searched by, newest first.
create index audit_by_subject on audit (enterprise, subject, sequence);
create index audit_by_actor on audit (enterprise, actor, sequence);
