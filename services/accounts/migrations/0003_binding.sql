-- Binding by invitation; what servers tell of their OAuth2; tokens that expire.

-- issuer: what the server calls itself in redirects (RFC 9207), '' when it does not tell; names_issuer: it promised to.
-- pkce: codes are asked for with a challenge.
alter table applications
  add column issuer text not null default '',
  add column names_issuer boolean not null default false,
  add column pkce boolean not null default true;

-- Null: the token is good for ever, as far as its server says.
alter table accounts add column token_expire_time timestamptz;
alter table tokens
  add column expire_time timestamptz,
  add column sealed_refresh bytea;

create table binding_batches (
  enterprise text not null references enterprises,
  name text not null,
  display_name text not null,
  creator text not null,
  create_time timestamptz not null,
  cancel_time timestamptz,
  primary key (enterprise, name)
);
create index binding_batches_by_age on binding_batches (enterprise, create_time, name);
select chassis_tenant_table('binding_batches');

-- One account to be bound. The link's token itself is only in the link; here is its SHA-256.
create table binding_rows (
  enterprise text not null,
  name text not null,
  batch text not null,
  position int not null,
  network text not null,
  server text not null,
  labels text[] not null,
  group_id text not null,
  note text not null,
  external_key text not null,
  state text not null check (state in ('INVITED', 'STARTED', 'BOUND', 'REFUSED', 'CANCELLED', 'EXPIRED')),
  reason text not null,
  account text,
  token_hash bytea not null,
  expire_time timestamptz not null,
  revision bigint not null,
  update_time timestamptz not null,
  primary key (enterprise, name),
  unique (enterprise, batch, position),
  unique (enterprise, token_hash),
  foreign key (enterprise, batch) references binding_batches (enterprise, name)
);
create index binding_rows_open on binding_rows (expire_time) where state in ('INVITED', 'STARTED', 'REFUSED');
select chassis_tenant_table('binding_rows');

-- A binding that a row's invitation has started: only the browser that holds this secret completes it.
alter table bindings
  add column invitation text not null default '',
  add column browser_hash bytea;
