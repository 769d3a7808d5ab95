-- What the chassis keeps in every service's schema. Runs as the schema's owner, with the schema as search_path.

-- Puts a table under row-level security, for the application role (named as the schema) and for the owner.
-- A row is visible, and may be written, when it is of the transaction's enterprise or the transaction is the
-- platform's. With global_rows, a row of no enterprise (null) is everybody's.
-- NULLIF: a setting that was once set in a session reads '' after it, not null.
-- The sub-selects make PostgreSQL read the settings once per statement, not once per row.
create function chassis_tenant_table(target regclass, global_rows boolean default false) returns void
language plpgsql as $$
declare
  app name := (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = target);
  visible text := $visible$
    enterprise = (select nullif(current_setting('numerator.enterprise', true), ''))
    or (select current_setting('numerator.scope', true)) = 'platform'
  $visible$;
begin
  if global_rows then
    visible := visible || ' or enterprise is null';
  end if;
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format(
    'create policy chassis_tenant on %s to %I, %I using (%s) with check (%s)',
    target, app, app || '_owner', visible, visible
  );
end
$$;

-- Events that are to be told. Written in the transaction that makes them true; sent by the worker's relay.
create table outbox (
  sequence bigint generated always as identity primary key,
  id text not null unique,
  type text not null,
  subject text not null,
  ordering_key text not null,
  enterprise text,
  time timestamptz not null,
  content_type text not null,
  body bytea not null,
  traceparent text not null default '',
  sent_time timestamptz
);
create index outbox_unsent on outbox (sequence) where sent_time is null;
create index outbox_sent on outbox (sent_time) where sent_time is not null;
select chassis_tenant_table('outbox', global_rows => true);

create function chassis_notify_outbox() returns trigger language plpgsql as $$
begin
  perform pg_notify(tg_table_schema || '_outbox', '');
  return null;
end
$$;
create trigger chassis_notify after insert on outbox for each statement execute function chassis_notify_outbox();

-- Events that were handled, by handler. Written in the transaction of their effect.
create table inbox (
  handler text not null,
  event_id text not null,
  received_time timestamptz not null,
  primary key (handler, event_id)
);
create index inbox_received on inbox (received_time);

-- Requests that were answered, with the answer. Written in the transaction of their effect.
-- tenant is '' for callers who belong to no enterprise.
create table idempotency (
  tenant text not null,
  caller text not null,
  method text not null,
  request_id text not null,
  fingerprint bytea not null,
  response bytea,
  create_time timestamptz not null,
  primary key (tenant, caller, method, request_id)
);
create index idempotency_created on idempotency (create_time);
alter table idempotency enable row level security;
alter table idempotency force row level security;
do $$
begin
  execute format(
    $policy$
      create policy chassis_tenant on idempotency to %I, %I using (
        tenant = (select coalesce(current_setting('numerator.enterprise', true), ''))
        or (select current_setting('numerator.scope', true)) = 'platform'
      )
    $policy$,
    current_schema(), current_schema() || '_owner'
  );
end
$$;

-- What followers follow: changes by log, in the order of their commits.
create table changes (
  log text not null,
  sequence bigint generated always as identity,
  key text not null,
  enterprise text,
  data jsonb,
  bytes bytea,
  create_time timestamptz not null,
  primary key (log, sequence),
  check (num_nonnulls(data, bytes) = 1)
);
create index changes_of_enterprise on changes (log, enterprise, sequence);
select chassis_tenant_table('changes', global_rows => true);

-- Appends to a log. The lock is held until the commit and the number is drawn under it, so nobody can see a number
-- and find a smaller one later. Wakes followers with `<log> <enterprise>`.
create function chassis_append_change(
  log text, key text, enterprise text, data jsonb, bytes bytea, create_time timestamptz
) returns bigint language plpgsql as $$
declare
  drawn bigint;
begin
  perform pg_advisory_xact_lock(hashtext(current_schema() || ' changes'), hashtext(log));
  insert into changes (log, key, enterprise, data, bytes, create_time)
    values (log, key, enterprise, data, bytes, create_time)
    returning sequence into drawn;
  perform pg_notify(current_schema() || '_changes', log || ' ' || coalesce(enterprise, ''));
  return drawn;
end
$$;
