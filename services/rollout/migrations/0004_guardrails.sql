-- What analytics measured, by window of time. The sums are those of all windows of the metric and enterprise up to this one: what happened
-- since any moment is the difference of two of them, however long ago that was.
create table measurements (
    metric       text not null,
    enterprise   text not null,
    window_start timestamptz not null,
    count        bigint not null,
    bad          bigint not null,
    count_sum    bigint not null,
    bad_sum      bigint not null,
    primary key (metric, enterprise, window_start),
    check (bad between 0 and count)
);
select chassis_tenant_table('measurements');
-- For removing old rows. Rows come in the order of time, so this small index will do.
create index measurements_window on measurements using brin (window_start);

-- Up to when a metric is measured; null as long as nobody said. Its row is the lock of the metric's measurements.
create table measured (
    metric  text primary key,
    through timestamptz,
    -- how long its windows are
    "window" interval not null
);

-- Each look of the guardrails at a stage.
create table analyses (
    rollout  text not null,
    sequence bigint generated always as identity,
    stage    text not null,
    time     timestamptz not null,
    outcome  text not null,
    action   text not null,
    cause    text not null,
    advance  boolean not null,
    reason   text not null,
    verdicts jsonb not null,
    primary key (rollout, sequence)
);
create index analyses_time on analyses using brin (time);

-- When an enterprise first used the edition in a stage.
create table exposures (
    rollout    text not null,
    stage      text not null,
    enterprise text not null,
    time       timestamptz not null,
    primary key (rollout, stage, enterprise)
);
select chassis_tenant_table('exposures');
