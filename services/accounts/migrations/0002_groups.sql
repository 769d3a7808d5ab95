-- The account tree, and roles in parts of it.

-- A member may hold grants only.
alter table members alter column role drop not null;

-- path: the ids from the root to itself, each followed by '/'. So a subtree is a range of one index, from path to path_end:
-- '0' follows '/'. Ranges of text may be looked up under row-level security before its policy, arrays may not (measured: README).
create table account_groups (
  enterprise text not null references enterprises,
  id text not null,
  parent text,
  path text collate "C" not null,
  path_end text collate "C" not null generated always as (left(path, -1) || '0') stored,
  display_name text not null,
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  primary key (enterprise, id),
  foreign key (enterprise, parent) references account_groups (enterprise, id)
);
create index account_groups_by_path on account_groups (enterprise, path);
create index account_groups_by_parent on account_groups (enterprise, parent);
create index account_groups_by_age on account_groups (enterprise, create_time, id);
select chassis_tenant_table('account_groups');

alter table accounts
  add column group_id text,
  add foreign key (enterprise, group_id) references account_groups (enterprise, id);
create index accounts_by_group on accounts (enterprise, group_id);

-- Without a foreign key: a group may go while somebody binds an account into it.
alter table bindings add column group_id text;

-- What is told of an account's place, in the order in which it was so.
create sequence placement_version;

-- The member may be of another enterprise, an agency.
create table grants (
  enterprise text not null references enterprises,
  name text not null,
  member text not null,
  role text not null check (role in ('OWNER', 'ADMIN', 'EDITOR', 'RESPONDER', 'ANALYST')),
  group_id text not null,
  expire_time timestamptz,
  creator text not null,
  create_time timestamptz not null,
  primary key (enterprise, name),
  unique (enterprise, member, role, group_id),
  foreign key (enterprise, group_id) references account_groups (enterprise, id) on delete cascade
);
create index grants_by_age on grants (enterprise, create_time, name);
create index grants_by_group on grants (enterprise, group_id);
select chassis_tenant_table('grants');
