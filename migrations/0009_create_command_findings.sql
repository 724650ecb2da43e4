-- What the rules find in build commands: secrets, and habits that let others in.

create table swr.finding_rule (
    rule_id       text primary key,
    rules_version integer not null,
    severity      text not null check (severity in ('info', 'low', 'medium', 'high')),
    title         text not null,
    why           text not null,
    patterns      text not null
);

comment on table swr.finding_rule is
    'One row per rule by which build commands are examined; the program brings them along. Shared by all instances.';
comment on column swr.finding_rule.rule_id is 'Names the rule, for ever.';
comment on column swr.finding_rule.rules_version is
    'Latest version of the rule set that has the rule; a rule with less than the greatest is no longer in use.';
comment on column swr.finding_rule.severity is
    'How much it matters: high (a secret), medium (others may get in), low (a habit to drop), info (builds that cannot be repeated).';
comment on column swr.finding_rule.title is 'What was found, in a few words.';
comment on column swr.finding_rule.why is 'Why it matters.';
comment on column swr.finding_rule.patterns is
    'What begins a finding, as regular expressions, one on each line; the program weighs what follows.';

create table swr.command_finding (
    instance_id integer not null,
    occurrences integer not null check (occurrences > 0),
    command_id  uuid not null,
    rule_id     text not null references swr.finding_rule,
    primary key (instance_id, command_id, rule_id),
    foreign key (instance_id, command_id) references swr.command
);

comment on table swr.command_finding is
    'One row per command and rule that found something in it. The command is examined when it is stored, and again when the rules change.';
comment on column swr.command_finding.instance_id is 'The instance.';
comment on column swr.command_finding.occurrences is 'How often the rule found something in the command.';
comment on column swr.command_finding.command_id is 'The command.';
comment on column swr.command_finding.rule_id is 'The rule.';

alter table swr.command add column masked_command text;

comment on column swr.command.masked_command is
    'The command with [redacted] in place of each secret that the rules know; NULL if they know none in it.';

alter table swr.instance add column rules_version integer;

comment on column swr.instance.rules_version is
    'Version of the rules by which all commands of the instance are examined; NULL while that is to be done, which a run does at its end.';

create view swr_report.build_command_finding as
with carried as (
    select
        a.instance_id,
        s.command_id,
        a.artifact_id,
        a.repository_id,
        cardinality(m.build_step_ids) as build_steps,
        a.pushed_at,
        min(e.position) as position
    from swr.artifact a
    join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
    cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
    join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
    join (
        select distinct instance_id, command_id from swr.command_finding
    ) f on f.instance_id = s.instance_id and f.command_id = s.command_id
    where a.removed_at is null
    group by a.instance_id, s.command_id, a.artifact_id, cardinality(m.build_step_ids)
),
used as (
    select
        instance_id,
        command_id,
        count(*) as artifacts,
        count(distinct repository_id) as repositories,
        (array_agg(artifact_id order by build_steps, pushed_at nulls last, artifact_id))[1] as artifact_id,
        (array_agg(position order by build_steps, pushed_at nulls last, artifact_id))[1] as position
    from carried
    group by instance_id, command_id
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    k.severity,
    f.rule_id as rule,
    k.title,
    k.why,
    coalesce(c.masked_command, c.command) as command,
    f.occurrences,
    u.artifacts,
    u.repositories,
    coalesce(r.namespace_name, n.name) as origin_namespace,
    coalesce(r.name, a.repository_name) as origin_repository,
    a.digest as origin_digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = u.instance_id and t.artifact_id = u.artifact_id
        order by t.name
    ) as origin_tags,
    u.position as origin_position,
    f.command_id,
    u.artifact_id as origin_artifact_id,
    u.instance_id
from used u
join swr.command_finding f on f.instance_id = u.instance_id and f.command_id = u.command_id
join swr.finding_rule k on k.rule_id = f.rule_id
join swr.command c on c.instance_id = u.instance_id and c.command_id = u.command_id
join swr.instance i on i.instance_id = u.instance_id
join swr.artifact a on a.instance_id = u.instance_id and a.artifact_id = u.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id;

comment on view swr_report.build_command_finding is
    'Which build commands carry secrets, or let others in, and where do they come from? One row per command of an artifact that exists now and rule that found something in it. Secrets are masked; the command as it is stands in swr_report.build_history, by instance_id, artifact_id and position of the origin. swr_report.artifact_finding lists the artifacts. Secrets that a run with --redact-commands did not store are in swr_report.data_issue instead.';
comment on column swr_report.build_command_finding.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.build_command_finding.severity is
    'How much it matters: high (a secret), medium (others may get in), low (a habit to drop), info (builds that cannot be repeated).';
comment on column swr_report.build_command_finding.rule is 'The rule; see swr.finding_rule.';
comment on column swr_report.build_command_finding.title is 'What was found, in a few words.';
comment on column swr_report.build_command_finding.why is 'Why it matters.';
comment on column swr_report.build_command_finding.command is 'The build command, with [redacted] in place of each secret.';
comment on column swr_report.build_command_finding.occurrences is 'How often the rule found something in the command.';
comment on column swr_report.build_command_finding.artifacts is 'Number of artifacts with the command.';
comment on column swr_report.build_command_finding.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.build_command_finding.origin_namespace is
    'Namespace of the artifact with the fewest build steps of those that have the command, of equal ones the first pushed: where it comes from, often the base image of the others.';
comment on column swr_report.build_command_finding.origin_repository is 'Its repository.';
comment on column swr_report.build_command_finding.origin_digest is 'Its digest.';
comment on column swr_report.build_command_finding.origin_tags is 'Its tags, in alphabetical order; empty if untagged.';
comment on column swr_report.build_command_finding.origin_position is
    'Place of the command in its build history, from 1, oldest first; of several the first.';
comment on column swr_report.build_command_finding.command_id is 'Names the command.';
comment on column swr_report.build_command_finding.origin_artifact_id is 'Id of the origin in SWR.';
comment on column swr_report.build_command_finding.instance_id is 'Key of swr.instance.';

create view swr_report.artifact_finding as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    k.severity,
    f.rule_id as rule,
    k.title,
    e.position,
    coalesce(c.masked_command, c.command) as command,
    f.occurrences,
    a.pushed_at,
    a.pulled_at,
    f.command_id,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.artifact a
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
join swr.command_finding f on f.instance_id = s.instance_id and f.command_id = s.command_id
join swr.finding_rule k on k.rule_id = f.rule_id
join swr.command c on c.instance_id = f.instance_id and c.command_id = f.command_id
join swr.instance i on i.instance_id = a.instance_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
where a.removed_at is null;

comment on view swr_report.artifact_finding is
    'Which artifacts carry what the rules found? One row per artifact that exists now, build step and rule that found something in its command. Secrets are masked; the command as it is stands in swr_report.build_history, by instance_id, artifact_id and position.';
comment on column swr_report.artifact_finding.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.artifact_finding.namespace is 'Name of the namespace.';
comment on column swr_report.artifact_finding.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact_finding.digest is 'Digest of the manifest.';
comment on column swr_report.artifact_finding.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact_finding.severity is
    'How much it matters: high (a secret), medium (others may get in), low (a habit to drop), info (builds that cannot be repeated).';
comment on column swr_report.artifact_finding.rule is 'The rule; see swr.finding_rule.';
comment on column swr_report.artifact_finding.title is 'What was found, in a few words.';
comment on column swr_report.artifact_finding.position is 'Place of the build step, from 1, oldest first.';
comment on column swr_report.artifact_finding.command is 'The build command, with [redacted] in place of each secret.';
comment on column swr_report.artifact_finding.occurrences is 'How often the rule found something in the command.';
comment on column swr_report.artifact_finding.pushed_at is 'Last push.';
comment on column swr_report.artifact_finding.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.artifact_finding.command_id is 'Names the command; see swr_report.build_command_finding.';
comment on column swr_report.artifact_finding.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact_finding.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact_finding.instance_id is 'Key of swr.instance.';
