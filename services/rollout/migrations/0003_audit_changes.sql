-- The audit trail: a chain in which each event's hash covers the one before it; see audit.py. Only grows, and the service's
-- role cannot do otherwise. `enterprise` is null where an event concerns none; such events are the platform's alone.
create table audit_events (
    sequence         bigint primary key,
    time             timestamptz not null,
    actor            text not null,
    cause            text not null,
    rollout          text not null,
    enterprise       text,
    detail           jsonb not null,
    snapshot_version bigint not null,
    previous_hash    text not null,
    hash             text not null
);
create index audit_events_of_rollout on audit_events (rollout, sequence);
select chassis_tenant_table('audit_events');
revoke update, delete on audit_events from rollout;

-- Plans that wait for others to approve them, and reviews of what was done without asking; see changes.py. What is open and not
-- based on the plan in force is CONFLICTED, whatever `state` says.
create table change_requests (
    name             text primary key,
    rollout          text not null,
    kind             text not null,
    author           text not null,
    reason           text not null,
    plan             text not null,
    schedule_time    timestamptz,
    edits            integer not null,
    base_version     integer not null,
    approvals_needed integer not null,
    state            text not null,
    note             text not null,
    create_time      timestamptz not null,
    update_time      timestamptz not null
);
create index change_requests_by_age on change_requests (create_time, name);
create index change_requests_of_rollout on change_requests (rollout, create_time, name);
create index change_requests_scheduled on change_requests (schedule_time) where state = 'SCHEDULED';

-- Who approved what: a change request, or a gate of a rollout. An approval is good for exactly this content on this base.
create table approvals (
    subject      text not null,
    content_hash text not null,
    base_version integer not null,
    approver     text not null,
    time         timestamptz not null,
    primary key (subject, content_hash, base_version, approver)
);
