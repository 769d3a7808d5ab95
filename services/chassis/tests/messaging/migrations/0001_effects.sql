-- What the sample worker's handlers did, and what they are told to do.
create table effects (
  number bigint generated always as identity primary key,
  handler text not null,
  event_id text not null,
  subject text not null,
  value text not null default ''
);
create table attempts (
  number bigint generated always as identity primary key,
  subject text not null,
  at timestamptz not null default clock_timestamp()
);
