-- Rollouts belong to the platform, not to a tenant.
create table rollouts (
    name        text primary key,
    flag        text not null unique,
    salt        text not null,
    stages      jsonb not null,
    state       text not null,
    stage       integer,
    killed      boolean not null default false,
    anchors     jsonb not null default '[]',
    revision    bigint not null,
    create_time timestamptz not null,
    update_time timestamptz not null
);

-- What rollout knows of enterprises, from accounts' events. `arrival` is the waitlist's order; `told_time` that of the
-- event that said so, because events may overtake each other.
create table enterprises (
    enterprise text primary key,
    arrival    bigint generated always as identity,
    verified   boolean not null,
    told_time  timestamptz not null
);
select chassis_tenant_table('enterprises');

-- One record for each enterprise and rollout. `seat` is the order of the first admission and is never given up.
create table admissions (
    rollout    text not null references rollouts (name),
    enterprise text not null references enterprises (enterprise),
    state      text not null,
    reason     text not null,
    stage      text not null,
    position   integer not null,
    bucket     integer not null,
    seat       bigint,
    admit_time timestamptz,
    primary key (rollout, enterprise)
);
select chassis_tenant_table('admissions');

-- The newest snapshot alone; older ones live in the events that carried them.
create table snapshots (
    only_one boolean primary key default true check (only_one),
    version  bigint not null,
    sha256   text not null,
    document bytea not null
);
