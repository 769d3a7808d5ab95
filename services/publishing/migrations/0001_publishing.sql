-- A read model of the accounts service: the accounts that can be published to. The token stays sealed.
create table accounts (
  enterprise text not null,
  name text not null,
  network text not null,
  server text not null,
  software text not null,
  network_account_id text not null,
  handle text not null,
  state text not null,
  max_characters integer not null,
  sealed_token bytea not null,
  bind_time timestamptz not null,
  -- of the newest event that was applied: an older one that arrives later changes nothing
  event_time timestamptz not null,
  -- the newest notification that was read; '' before the first reading
  notifications_cursor text not null default '',
  poll_time timestamptz not null,
  primary key (enterprise, name)
);
create index accounts_poll on accounts (poll_time) where state = 'ACTIVE';
select chassis_tenant_table('accounts');

create table publications (
  enterprise text not null,
  name text not null,
  text text not null,
  variants jsonb not null,
  accounts text[] not null,
  exclude_accounts text[] not null,
  schedule_time timestamptz,
  state text not null,
  plan jsonb not null,
  -- the interaction that it answers; '' for one of its own
  interaction text not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  primary key (enterprise, name)
);
create index publications_newest on publications (enterprise, create_time desc, name desc) where interaction = '';
select chassis_tenant_table('publications');

create table deliveries (
  enterprise text not null,
  name text not null,
  publication text not null,
  account text not null,
  ordinal bigint generated always as identity,
  text text not null,
  rule text not null,
  key text not null,
  in_reply_to text not null,
  state text not null,
  reason text not null,
  attempts integer not null,
  attempt_time timestamptz,
  tries integer not null,
  doubt_since timestamptz,
  doubt_over timestamptz,
  doubt_resend boolean,
  cancel_requested boolean not null,
  fence bigint not null,
  lease_until timestamptz,
  next_time timestamptz,
  due_time timestamptz not null,
  network_post_id text not null,
  url text not null,
  publish_time timestamptz,
  traceparent text not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  primary key (enterprise, name)
);
-- Never two under way for one account; one whose outcome is unknown holds the account's later ones.
create unique index deliveries_under_way on deliveries (enterprise, account)
  where state in ('SENDING', 'UNCONFIRMED');
-- A post on the network is one delivery's.
create unique index deliveries_post on deliveries (enterprise, account, network_post_id) where network_post_id <> '';
create index deliveries_line on deliveries (enterprise, account, due_time, ordinal) where state = 'QUEUED';
create index deliveries_due on deliveries (due_time) where state = 'QUEUED';
create index deliveries_of_publication on deliveries (enterprise, publication, account);
select chassis_tenant_table('deliveries');

-- What was tried, when, and what came of it. A row is there before the first byte leaves.
create table attempts (
  enterprise text not null,
  delivery text not null,
  fence bigint not null,
  step text not null,
  begin_time timestamptz not null,
  end_time timestamptz,
  outcome text not null default '',
  reason text not null default '',
  primary key (enterprise, delivery, fence)
);
select chassis_tenant_table('attempts');

create table interactions (
  enterprise text not null,
  name text not null,
  account text not null,
  kind text not null,
  state text not null,
  acct text not null,
  author text not null,
  author_display_name text not null,
  author_followers bigint not null,
  post_id text not null,
  our_post_id text not null,
  text text not null,
  url text not null,
  delivery text not null,
  answer text not null,
  interaction_time timestamptz not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  primary key (enterprise, name)
);
create index interactions_newest on interactions (enterprise, create_time desc, name desc);
create index interactions_by_answer on interactions (enterprise, answer) where answer <> '';
create index interactions_unlinked on interactions (enterprise, account, our_post_id)
  where delivery = '' and our_post_id <> '';
select chassis_tenant_table('interactions');
