-- Guardrails' numbers: how often something happened to an enterprise within a window of time, and how often it was bad.
create table usage (
    window_start timestamptz not null,
    metric     text not null,
    enterprise text not null,
    count      bigint not null,
    bad        bigint not null,
    -- counted since it was last told
    changed    boolean not null default true,
    primary key (window_start, metric, enterprise)
);
create index usage_changed on usage (metric, window_start) where changed;
select chassis_tenant_table('usage');

-- Where these numbers come from, and until when everything from there is in; null before anything is.
create table sources (
    source           text primary key,
    measured_through timestamptz,
    told_time        timestamptz not null default '-infinity'
);
insert into sources (source) values ('events'), ('gateways');
