-- Members who may do nothing in the whole enterprise: grants give them what they may do in groups of accounts.
alter table members drop constraint members_role_check,
  add check (role in ('OWNER', 'ADMIN', 'EDITOR', 'RESPONDER', 'ANALYST', 'LIMITED'));
alter table member_invitations drop constraint member_invitations_role_check,
  add check (role in ('OWNER', 'ADMIN', 'EDITOR', 'RESPONDER', 'ANALYST', 'LIMITED'));
