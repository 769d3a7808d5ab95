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
