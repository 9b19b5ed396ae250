-- +goose Up

ALTER TABLE bridges
    ADD COLUMN collected_at timestamptz,
    ADD COLUMN widened      interval,
    ADD COLUMN widened_at   timestamptz,
    ADD COLUMN late_found   bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN bridges.collected_at IS 'When a walk first came to its end. Before that, and before a complete listing, a daemon links nobody.';
COMMENT ON COLUMN bridges.widened IS 'The lookback, where windows have missed rows: wider than the configured one for some days after widened_at.';
COMMENT ON COLUMN bridges.late_found IS 'Rows that a search brought and that the windows should have brought before.';

CREATE TABLE schedules (
    bridge     text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    kind       text NOT NULL,
    expression text NOT NULL,
    due_at     timestamptz NOT NULL,
    PRIMARY KEY (bridge, kind)
);
COMMENT ON TABLE schedules IS 'When the next run of each kind is due. Whoever moves due_at on starts the run, in the same transaction.';

ALTER TABLE workers
    ADD COLUMN since  timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN serves boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN workers.serves IS 'It is a daemon; else a one-shot command, which starts nothing that is due.';

ALTER TABLE runs
    DROP COLUMN owner,
    ADD COLUMN resumed_at         timestamptz,
    ADD COLUMN phase              text NOT NULL DEFAULT '',
    ADD COLUMN place              jsonb,
    ADD COLUMN progress           jsonb,
    ADD COLUMN priority           smallint NOT NULL DEFAULT 4,
    ADD COLUMN hosted             uuid,
    ADD COLUMN requests_namecoach bigint NOT NULL DEFAULT 0,
    ADD COLUMN requests_bln       bigint NOT NULL DEFAULT 0,
    ADD COLUMN approved_at        timestamptz,
    ADD COLUMN approved_reason    text;
CREATE INDEX runs_running ON runs (bridge) WHERE status = 'running';
COMMENT ON TABLE runs IS 'Every collect, sweep, census, backfill, plan or revert with its counts.';
COMMENT ON COLUMN runs.phase IS 'What of a running run is to be done next; a job says that somebody shall do it.';
COMMENT ON COLUMN runs.place IS 'How far the phase is.';
COMMENT ON COLUMN runs.progress IS 'How far the phase is, for people.';
COMMENT ON COLUMN runs.priority IS '1 on demand, 2 collect, 3 sweep and census, 4 backfill and plan.';
COMMENT ON COLUMN runs.hosted IS 'The process of the one-shot command that started it and waits for it; null: the daemon''s.';

ALTER TABLE participants
    ADD COLUMN found_at  timestamptz,
    ADD COLUMN absences  integer NOT NULL DEFAULT 0,
    ADD COLUMN asked_run uuid;
CREATE INDEX participants_found ON participants (bridge, found_at) WHERE found_at IS NOT NULL;
COMMENT ON COLUMN participants.found_at IS 'A search brought it new or changed, and no window has brought it since: when, on NameCoach''s clock.';
COMMENT ON COLUMN participants.absences IS 'In how many complete censuses, one after the other, an answer about its person did not show it.';
COMMENT ON COLUMN participants.asked_run IS 'The last census that asked about its person.';
COMMENT ON COLUMN participants.replaced IS 'It speaks for nobody: missing, and a row that came later stands in its place (one of the same person in the same event, or one of somebody else with its badge or recording), or enough complete censuses did not bring it.';

ALTER TABLE directory_users
    ADD COLUMN urgency           smallint NOT NULL DEFAULT 4,
    ADD COLUMN wanted_run        uuid,
    ADD COLUMN wanted_window     timestamptz,
    ADD COLUMN removes           boolean NOT NULL DEFAULT false,
    ADD COLUMN released_version  bigint NOT NULL DEFAULT 0,
    ADD COLUMN applied_recording boolean NOT NULL DEFAULT false,
    ADD COLUMN asked_at          timestamptz,
    ADD COLUMN audit_at          timestamptz;
UPDATE directory_users SET applied_recording = true
    WHERE applied_digest IS NOT NULL AND (wanted_version > applied_version OR wanted IS NULL OR wanted->>'recording_link' IS NOT NULL);
DROP INDEX directory_users_pending;
CREATE INDEX directory_users_ready ON directory_users (bridge, urgency, user_id)
    WHERE wanted_version > applied_version AND gone_at IS NULL AND (NOT removes OR released_version = wanted_version);
CREATE INDEX directory_users_removals ON directory_users (bridge, user_id)
    WHERE wanted_version > applied_version AND gone_at IS NULL AND removes AND released_version < wanted_version;
CREATE INDEX directory_users_claimed ON directory_users (bridge, claim_owner) WHERE claim_owner IS NOT NULL;
CREATE INDEX directory_users_gone ON directory_users (bridge, gone_at) WHERE gone_at IS NOT NULL;
CREATE INDEX directory_users_unasked ON directory_users (bridge, user_id) WHERE asked_at IS NULL AND gone_at IS NULL;
CREATE INDEX directory_users_audit ON directory_users (bridge, audit_at) WHERE applied_digest IS NOT NULL AND gone_at IS NULL;
CREATE INDEX directory_users_source ON directory_users (bridge, applied_source) WHERE applied_source IS NOT NULL;
COMMENT ON COLUMN directory_users.urgency IS 'The priority of the run that wants it: 1 on demand, 2 collect, 3 sweep and census, 4 backfill and plan.';
COMMENT ON COLUMN directory_users.wanted_run IS 'The run that made it pending.';
COMMENT ON COLUMN directory_users.wanted_window IS 'The end of the window that brought the change, on NameCoach''s clock; null: no window did.';
COMMENT ON COLUMN directory_users.removes IS 'What is wanted takes a recording or a whole fragment away: the guard counts it.';
COMMENT ON COLUMN directory_users.released_version IS 'The wanted_version that the guard, or a person, has let through although it removes.';
COMMENT ON COLUMN directory_users.applied_recording IS 'What stands there has a recording, or what we wrote may have: to want none is a removal. Of others, whoever reads the user to write it tells.';
COMMENT ON COLUMN directory_users.asked_at IS 'When NameCoach was asked about the user''s keys, or a walk from the beginning has brought all that there is; null: never.';
COMMENT ON COLUMN directory_users.audit_at IS 'When the user is to be read, to see whether our fragment still stands there, if list rows do not show it.';

ALTER TABLE holds
    ADD COLUMN ignored_at     timestamptz,
    ADD COLUMN ignored_reason text;
COMMENT ON COLUMN holds.ignored_at IS 'A person has decided that nothing is to be done about it: it stays held and is not counted.';

CREATE INDEX journal_settled ON journal (bridge, settled_at) WHERE settled_at IS NOT NULL;

ALTER TABLE plan_steps ADD COLUMN version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN plan_steps.version IS 'The wanted_version that was planned or staged: what was wanted since is another thing.';

-- +goose Down

ALTER TABLE plan_steps DROP COLUMN version;
ALTER TABLE holds DROP COLUMN ignored_at, DROP COLUMN ignored_reason;
DROP INDEX journal_settled;
DROP INDEX directory_users_source;
DROP INDEX directory_users_gone;
DROP INDEX directory_users_claimed;
ALTER TABLE directory_users DROP COLUMN urgency, DROP COLUMN wanted_run, DROP COLUMN wanted_window, DROP COLUMN removes,
    DROP COLUMN released_version, DROP COLUMN applied_recording, DROP COLUMN asked_at, DROP COLUMN audit_at;
CREATE INDEX directory_users_pending ON directory_users (bridge, user_id) WHERE wanted_version > applied_version;
ALTER TABLE participants DROP COLUMN found_at, DROP COLUMN absences, DROP COLUMN asked_run;
DROP INDEX runs_running;
ALTER TABLE runs DROP COLUMN phase, DROP COLUMN place, DROP COLUMN progress, DROP COLUMN priority, DROP COLUMN hosted, DROP COLUMN requests_namecoach,
    DROP COLUMN requests_bln, DROP COLUMN approved_at, DROP COLUMN approved_reason, DROP COLUMN resumed_at, ADD COLUMN owner uuid;
ALTER TABLE workers DROP COLUMN since, DROP COLUMN serves;
DROP TABLE schedules;
ALTER TABLE bridges DROP COLUMN collected_at, DROP COLUMN widened, DROP COLUMN widened_at, DROP COLUMN late_found;
