-- People of the network; they belong to no tenant. `number` is a person's place in bitmaps, for ever.
create table profiles (
    person      text primary key,
    number      bigint generated always as identity unique,
    fingerprint bytea not null,
    document    jsonb not null,
    update_time timestamptz not null
);

-- Who does not want promotions. A row here outranks every profile, also one that comes later.
create table withdrawals (
    person          text primary key,
    withdrawal_time timestamptz not null
);

-- `definition` is a serialized numerator.targeting.v1.Rule, `members` a serialized Roaring bitmap of people's numbers (null
-- before the first build and after the end).
create table audiences (
    enterprise   text not null,
    name         text not null,
    display_name text not null,
    definition   bytea not null,
    state        text not null,
    size         bigint not null default 0,
    version      bigint not null default 0,
    members      bytea,
    create_time  timestamptz not null,
    build_time   timestamptz,
    primary key (enterprise, name)
);
select chassis_tenant_table('audiences');
