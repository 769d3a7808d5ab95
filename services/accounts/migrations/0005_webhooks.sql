-- Webhooks: endpoints of enterprises, what they are told, and what came of it.

create table webhook_endpoints (
  enterprise text not null references enterprises,
  name text not null,
  url text not null,
  event_types text[] not null, -- empty: all
  description text not null,
  state text not null check (state in ('ENABLED', 'DISABLED')),
  disabled_by text check (disabled_by in ('USER', 'GONE', 'FAILING')),
  failures int not null default 0,
  failing_since timestamptz,
  rest_until timestamptz,
  -- When a sender has something to do for it; null: nothing waits. One sender at a time does, until its lease ends, and the
  -- outcome of a lease counts only while its number (fence) is the newest.
  due_time timestamptz,
  lease_until timestamptz,
  fence bigint not null default 0,
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  primary key (enterprise, name),
  check ((state = 'DISABLED') = (disabled_by is not null))
);
create index webhook_endpoints_by_age on webhook_endpoints (enterprise, create_time, name);
create index webhook_endpoints_due on webhook_endpoints (due_time) where state = 'ENABLED' and due_time is not null;
select chassis_tenant_table('webhook_endpoints');

-- Two at most: the newest, and the one before until it expires.
create table webhook_secrets (
  enterprise text not null,
  endpoint text not null,
  version int not null,
  key_version int not null,
  sealed bytea not null,
  expire_time timestamptz, -- null: the newest
  primary key (enterprise, endpoint, version),
  foreign key (enterprise, endpoint) references webhook_endpoints (enterprise, name) on delete cascade,
  foreign key (enterprise, key_version) references data_keys (enterprise, version)
);
create index webhook_secrets_by_key on webhook_secrets (enterprise, key_version);
select chassis_tenant_table('webhook_secrets');

-- What is posted, once for all endpoints that want it.
create table webhook_messages (
  enterprise text not null references enterprises,
  id text not null,
  type text not null,
  time timestamptz not null,
  payload text not null,
  create_time timestamptz not null,
  primary key (enterprise, id)
);
create index webhook_messages_by_age on webhook_messages (create_time);
select chassis_tenant_table('webhook_messages');

create table webhook_deliveries (
  enterprise text not null,
  name text not null,
  endpoint text not null,
  message text not null,
  state text not null check (state in ('PENDING', 'DELIVERED', 'FAILED')),
  reason text not null default '',
  tries int not null default 0,
  due_time timestamptz,
  create_time timestamptz not null,
  primary key (enterprise, name),
  unique (enterprise, endpoint, message), -- an event once for each endpoint
  foreign key (enterprise, endpoint) references webhook_endpoints (enterprise, name) on delete cascade,
  foreign key (enterprise, message) references webhook_messages (enterprise, id) on delete cascade,
  check ((state = 'PENDING') = (due_time is not null))
);
create index webhook_deliveries_due on webhook_deliveries (enterprise, endpoint, due_time) where state = 'PENDING';
create index webhook_deliveries_by_age on webhook_deliveries (enterprise, create_time desc, name desc);
create index webhook_deliveries_by_message on webhook_deliveries (enterprise, message);
select chassis_tenant_table('webhook_deliveries');

create table webhook_attempts (
  enterprise text not null,
  delivery text not null,
  sequence bigint generated always as identity,
  time timestamptz not null,
  status int not null, -- 0: no answer
  millis bigint not null,
  error text not null, -- empty: taken
  primary key (enterprise, delivery, sequence),
  foreign key (enterprise, delivery) references webhook_deliveries (enterprise, name) on delete cascade
);
select chassis_tenant_table('webhook_attempts');
