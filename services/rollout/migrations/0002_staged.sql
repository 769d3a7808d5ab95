-- A rollout is written as a plan. What was made by stages alone becomes the plan that says the same.
create table plans (
    rollout     text not null references rollouts (name),
    version     integer not null,
    text        text not null,
    sha256      text not null,
    author      text not null,
    create_time timestamptz not null,
    primary key (rollout, version)
);

-- A plan has no stage of these names: `start` is a gate, and YAML reads `null` as nothing.
update rollouts set stages = (
    select jsonb_agg(jsonb_set(each, '{id}', to_jsonb(regexp_replace(each ->> 'id', '^(null|start)$', 'ring-\1'))) order by place)
    from jsonb_array_elements(stages) with ordinality as listed (each, place));
update admissions set stage = regexp_replace(stage, '^(null|start)$', 'ring-\1');

alter table rollouts rename column stage to stage_index;
alter table rollouts
    add column plan text,
    add column plan_version integer not null default 1,
    add column author text not null default '',
    add column stage text not null default '',
    add column stage_time timestamptz,
    add column basis_points integer not null default 0,
    add column cause text not null default '',
    add column reason text not null default '';
update rollouts set
    plan = format(E'rollout: %s\nflag: %s\nstages:\n', substr(name, length('rollouts/') + 1), flag) || (
        select string_agg(
            format('  - {ring: %s, percent: %s%%%s}', each ->> 'id',
                   trim_scale((each ->> 'basis_points')::numeric / 100),
                   ', quota: ' || nullif(each ->> 'quota', '0')),
            E'\n' order by place)
        from jsonb_array_elements(stages) with ordinality as listed (each, place)),
    stage = coalesce(stages -> stage_index ->> 'id', ''),
    basis_points = coalesce((stages -> stage_index ->> 'basis_points')::integer, 0),
    stage_time = case when stage_index is not null then update_time end;
insert into plans (rollout, version, text, sha256, author, create_time)
    select name, 1, plan, '', '', create_time from rollouts;

-- What a rollback restores, one for each widening, the start among them: who held a seat (with the stage of the admission).
create table anchors (
    rollout      text not null references rollouts (name),
    number       integer not null,
    stage        text not null,
    stage_time   timestamptz,
    basis_points integer not null,
    held         jsonb not null,
    primary key (rollout, number)
);
insert into anchors (rollout, number, stage, stage_time, basis_points, held)
    select name, 1, '', null, 0, '{}' from rollouts where stage_index is not null
    union all
    select name, place + 1, stages -> (anchor -> 'stage')::integer ->> 'id', update_time,
           (stages -> (anchor -> 'stage')::integer -> 'basis_points')::integer,
           (select coalesce(jsonb_object_agg(a.enterprise, a.stage), '{}') from admissions a
            where a.rollout = name and anchor -> 'seated' ? a.enterprise)
    from rollouts, jsonb_array_elements(anchors) with ordinality as listed (anchor, place);
alter table rollouts alter column plan set not null, drop column stages, drop column stage_index, drop column anchors;

-- What predicates may ask besides `verified`. `version` is that of the admissions in which gateways were told of it.
alter table enterprises
    add column attributes jsonb not null default '{}',
    add column version bigint not null default 0;
create index enterprises_version on enterprises (version, enterprise);

-- `held`: counts against the quota. `queue_key`: the order of those who wait for a place. Buckets are computed.
alter table admissions
    add column source text not null default '',
    add column held boolean not null default false,
    add column queue_key text not null default '',
    add column version bigint not null default 0;
update admissions set held = state = 'ACTIVE' or reason = 'VERIFICATION_REVOKED',
                      source = case when seat is null then '' else 'BUCKET' end;
update admissions a set queue_key = case when seat is null then '4' || lpad(bucket::text, 12, '0')
                                         else '0' || lpad(seat::text, 12, '0') end || lpad(e.arrival::text, 12, '0')
from enterprises e where e.enterprise = a.enterprise and a.reason = 'QUOTA_FULL';
alter table admissions drop column position, drop column bucket;
create index admissions_version on admissions (version, enterprise, rollout);
create index admissions_held on admissions (rollout) where held;
create index admissions_queue on admissions (rollout, queue_key) where queue_key <> '';

-- One version for each transaction that changed records. The token tells two histories apart: that of a database that was
-- restored from a backup, and the one that gateways have seen.
create table admission_versions (
    version bigint primary key,
    token   text not null,
    time    timestamptz not null
);
alter table snapshots add column time timestamptz not null default now();

create table list_entries (
    rollout     text not null references rollouts (name),
    enterprise  text not null,
    kind        text not null,
    reason      text not null,
    expire_time timestamptz,
    primary key (rollout, enterprise)
);
select chassis_tenant_table('list_entries');
create index list_entries_expire on list_entries (expire_time) where expire_time is not null;

create table waitlist_entries (
    rollout    text not null references rollouts (name),
    enterprise text not null,
    number     bigint generated always as identity,
    join_time  timestamptz not null,
    primary key (rollout, enterprise)
);
select chassis_tenant_table('waitlist_entries');

-- `token_hash`: SHA-256 of a token of 256 random bits; the token itself is told once and kept nowhere.
-- `number`: the order of acceptance.
create sequence invitation_acceptances;
create table invitations (
    name        text primary key,
    rollout     text not null references rollouts (name),
    token_hash  bytea not null unique,
    enterprise  text not null,
    note        text not null,
    expire_time timestamptz not null,
    revoked     boolean not null default false,
    accepted_by text,
    number      bigint,
    create_time timestamptz not null
);
select chassis_tenant_table('invitations');
create index invitations_accepted on invitations (rollout, accepted_by) where accepted_by is not null;

-- Ordinary flags, as they are served.
create table flags (
    key         text primary key,
    definition  jsonb not null,
    update_time timestamptz not null
);

-- What gateways serve, by their own word. Lost in a crash without harm: they say it again within a second.
create unlogged table replicas (
    replica            text primary key,
    snapshot_version   bigint not null,
    admissions_version bigint not null,
    snapshot_lag       bigint not null,
    admissions_lag     bigint not null,
    report_time        timestamptz not null
);
