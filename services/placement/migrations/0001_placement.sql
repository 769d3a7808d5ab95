-- What people see of enterprises, from accounts' events, which may come in any order: no name until its registration is here.
create table enterprises (
    enterprise        text primary key,
    display_name      text,
    verified          boolean not null default false,
    verification_time timestamptz
);
select chassis_tenant_table('enterprises');

create table modules (
    enterprise  text not null,
    name        text not null,
    title       text not null,
    body        text not null,
    link_url    text not null,
    start_time  timestamptz not null,
    end_time    timestamptz not null,
    position    integer not null,
    create_time timestamptz not null,
    primary key (enterprise, name)
);
select chassis_tenant_table('modules');

create table campaigns (
    enterprise         text not null,
    name               text not null,
    display_name       text not null,
    start_time         timestamptz not null,
    end_time           timestamptz not null,
    capacity           integer not null,
    state              text not null,
    registration_count integer not null default 0,
    create_time        timestamptz not null,
    primary key (enterprise, name)
);
select chassis_tenant_table('campaigns');

-- `relevance_floor` is double precision: a real would come back rounded, and refuse whom it should just take.
create table placements (
    enterprise      text not null,
    name            text not null,
    campaign        text not null,
    touchpoint      text not null,
    format          text not null,
    audience        text not null,
    relevance_floor double precision not null,
    daily_cap       integer not null,
    creative        jsonb not null,
    create_time     timestamptz not null,
    primary key (enterprise, name),
    foreign key (enterprise, campaign) references campaigns (enterprise, name)
);
create index placements_of_campaign on placements (enterprise, campaign);
select chassis_tenant_table('placements');

-- Audiences as they arrive from targeting: parts, and the word of how many parts a version consists. `version` is the newest
-- complete one, 0 before.
create table audiences (
    enterprise text not null,
    name       text not null,
    version    bigint not null default 0,
    archived   boolean not null default false,
    primary key (enterprise, name)
);
select chassis_tenant_table('audiences');

create table audience_versions (
    enterprise text not null,
    audience   text not null,
    version    bigint not null,
    parts      integer not null,
    primary key (enterprise, audience, version)
);
select chassis_tenant_table('audience_versions');

-- `members` is a serialized numerator.events.v1.AudienceMembersListed.
create table audience_parts (
    enterprise text not null,
    audience   text not null,
    version    bigint not null,
    part       integer not null,
    members    bytea not null,
    primary key (enterprise, audience, version, part)
);
select chassis_tenant_table('audience_parts');

create table exposures (
    enterprise    text not null,
    decision      text not null,
    placement     text not null,
    person        text not null,
    exposure_time timestamptz not null,
    primary key (enterprise, decision)
);
create index exposures_of_person on exposures (enterprise, placement, person, exposure_time);
select chassis_tenant_table('exposures');

create table registrations (
    enterprise   text not null,
    campaign     text not null,
    person       text not null,
    name         text not null,
    display_name text not null,
    placement    text not null,
    create_time  timestamptz not null,
    primary key (enterprise, campaign, person)
);
select chassis_tenant_table('registrations');

-- People who want no promotions, of no tenant.
create table withdrawals (
    person text primary key
);
