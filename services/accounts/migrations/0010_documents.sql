-- Documents with which enterprises ask to be verified.

-- The row stays when the content is erased. expire_time: when it will be; null before a decision, and afterwards.
create table verification_documents (
  enterprise text not null references enterprises,
  name text not null,
  kind text not null check (kind in ('BUSINESS_LICENCE', 'LETTER_OF_AUTHORITY', 'OTHER')),
  title text not null,
  media_type text not null,
  size_bytes int not null,
  sha256 bytea not null,
  uploader text not null,
  create_time timestamptz not null,
  expire_time timestamptz,
  erase_time timestamptz,
  decision text check (decision in ('VERIFIED', 'REJECTED')),
  decide_time timestamptz,
  revision bigint not null,
  primary key (enterprise, name),
  check (erase_time is null or expire_time is null),
  check ((decision is null) = (decide_time is null))
);
-- The same bytes are the same document, until they are erased.
create unique index verification_documents_by_hash on verification_documents (enterprise, sha256) where erase_time is null;
create index verification_documents_by_age on verification_documents (enterprise, create_time, name);
create index verification_documents_by_expiry on verification_documents (expire_time);
select chassis_tenant_table('verification_documents');

-- Their content, in pieces, so that a rotation of keys never holds many whole documents in memory.
create table document_pieces (
  enterprise text not null,
  document text not null,
  number int not null,
  key_version int not null,
  sealed bytea not null,
  primary key (enterprise, document, number),
  foreign key (enterprise, document) references verification_documents (enterprise, name),
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index document_pieces_by_key on document_pieces (enterprise, key_version);
-- What is sealed does not compress.
alter table document_pieces alter column sealed set storage external;
select chassis_tenant_table('document_pieces');
