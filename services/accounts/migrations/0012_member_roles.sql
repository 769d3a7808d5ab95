-- Every member has a role in the whole enterprise; grants in groups come on top. Those of an agency's members are in other enterprises.
alter table members alter column role set not null;
