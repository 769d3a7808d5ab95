-- The ids of all facts taken in: a fact counts once. The facts themselves are in the change log `facts`.
create table fact_ids (
    enterprise text not null,
    id         text not null,
    primary key (enterprise, id)
);
select chassis_tenant_table('fact_ids');

-- The posts that engagement can be about, ours and others.
create table posts (
    enterprise  text not null,
    post        text not null,
    time        timestamptz not null,
    publication text not null default '',
    account     text not null default '',
    primary key (enterprise, post)
);
select chassis_tenant_table('posts');

-- Which log of facts this is: a columnar store that was filled from another one begins anew.
create table log (
    only_one boolean primary key default true check (only_one),
    id       text not null default gen_random_uuid()
);
insert into log default values;
