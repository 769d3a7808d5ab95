-- What tells of the health of accounts: how their deliveries went, and which expiries were told.

create table delivery_hours (
  enterprise text not null,
  account text not null,
  hour timestamptz not null,
  published int not null,
  failed int not null,
  primary key (enterprise, account, hour),
  foreign key (enterprise, account) references accounts (enterprise, name)
);
create index delivery_hours_by_age on delivery_hours (hour);
select chassis_tenant_table('delivery_hours');

-- Once for each token: a new one has another time.
create table expiry_notices (
  enterprise text not null,
  account text not null,
  expire_time timestamptz not null,
  primary key (enterprise, account, expire_time),
  foreign key (enterprise, account) references accounts (enterprise, name)
);
create index expiry_notices_by_age on expiry_notices (expire_time);
select chassis_tenant_table('expiry_notices');

create index accounts_by_token_expiry on accounts (token_expire_time) where state = 'ACTIVE';
