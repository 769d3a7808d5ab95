create table notes (
  enterprise text not null,
  id text not null,
  text text not null default '',
  primary key (enterprise, id)
);
select chassis_tenant_table('notes');

create table counters (
  name text primary key,
  value int not null default 0
);

-- Each row makes its transaction's COMMIT take that many seconds.
create table slow_commits (seconds double precision not null);
create function sleep_at_commit() returns trigger language plpgsql as $$
begin
  perform pg_sleep(new.seconds);
  return null;
end
$$;
create constraint trigger sleep_at_commit after insert on slow_commits
  deferrable initially deferred for each row execute function sleep_at_commit();
