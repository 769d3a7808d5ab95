-- Who made a publication: they may read it, whichever accounts it is for. '' for those from before.
alter table publications add column creator text not null default '';

-- Where accounts are in their enterprise's tree of groups. A table of its own, because a place may be told before the
-- account is.
create table places (
  enterprise text not null,
  account text not null,
  -- ids: the root first, its own group last
  groups text[] not null,
  -- of the newest event that was applied: an older one that arrives later changes nothing
  version bigint not null,
  primary key (enterprise, account)
);
select chassis_tenant_table('places');

create table freezes (
  enterprise text not null,
  name text not null,
  -- the name of an account or of a group, or the enterprise's own
  target text not null,
  -- the group's id; null if the target is none
  group_id text,
  reason text not null,
  on_lift text not null,
  creator text not null,
  by_platform boolean not null,
  create_time timestamptz not null,
  expire_time timestamptz,
  lifter text not null default '',
  -- null: in force
  lift_time timestamptz,
  primary key (enterprise, name)
);
create index freezes_newest on freezes (enterprise, create_time desc, name desc);
create index freezes_in_force on freezes (enterprise) where lift_time is null;
select chassis_tenant_table('freezes');

-- The oldest freeze in force that holds an account; null: none does, and it may be sent for. A function, and one that is not
-- inlined: it costs a look into two indexes for each account, whatever the planner believes of the tables.
create function freeze_of(of_enterprise text, of_account text) returns text language plpgsql stable as $$
begin
  if not exists (select from freezes f where f.enterprise = of_enterprise and f.lift_time is null) then
    return null;
  end if;
  return (
    select min(f.name) from freezes f
    left join places p on (p.enterprise, p.account) = (of_enterprise, of_account)
    where f.enterprise = of_enterprise and f.lift_time is null
      and (f.target in (of_account, of_enterprise) or f.group_id = any (p.groups))
  );
end
$$;
