-- The whole schema, to be read: what all migrations come to. Written by go test ./migrations -update.

CREATE TABLE bridges (
    bridge text NOT NULL,
    organization_id bigint NOT NULL,
    halted_at timestamp with time zone,
    halt_reason text,
    halt_run uuid,
    rows_carry_fragment boolean,
    directory_sweep bigint DEFAULT 0 NOT NULL,
    directory_listed_at timestamp with time zone,
    layout text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    collected_at timestamp with time zone,
    widened interval,
    widened_at timestamp with time zone,
    late_found bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (bridge)
);
COMMENT ON TABLE bridges IS 'One NameCoach account joined to one BLN organization.';
COMMENT ON COLUMN bridges.organization_id IS 'The organization this state belongs to: a bridge that is pointed at another one must not use it.';
COMMENT ON COLUMN bridges.halted_at IS 'Set when a foreign key was lost on a write. While it is set no write is made.';
COMMENT ON COLUMN bridges.rows_carry_fragment IS 'Whether list rows of this organization show our fragment; null until a written user was seen in a list answer.';
COMMENT ON COLUMN bridges.directory_sweep IS 'Number of the last complete listing of the directory; 0: never complete, nobody may be linked.';
COMMENT ON COLUMN bridges.layout IS 'Where in otherInfo the fragment stands and what it consists of: every digest of a fragment is of this layout.';
COMMENT ON COLUMN bridges.collected_at IS 'When a walk first came to its end. Before that, and before a complete listing, a daemon links nobody.';
COMMENT ON COLUMN bridges.widened IS 'The lookback, where windows have missed rows: wider than the configured one for some days after widened_at.';
COMMENT ON COLUMN bridges.late_found IS 'Rows that a search brought and that the windows should have brought before.';

CREATE TABLE cursors (
    bridge text NOT NULL,
    stream text NOT NULL,
    since timestamp with time zone NOT NULL,
    until timestamp with time zone NOT NULL,
    walk jsonb,
    moved_at timestamp with time zone DEFAULT now() NOT NULL,
    PRIMARY KEY (bridge, stream),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
COMMENT ON TABLE cursors IS 'Stream "participants": everything NameCoach changed from since until until is stored. Any other stream is the walk of one run.';
COMMENT ON COLUMN cursors.walk IS 'Which window comes next and how wide it is; null for stream participants.';

CREATE TABLE directory_users (
    bridge text NOT NULL,
    user_id bigint NOT NULL,
    username text NOT NULL,
    email text NOT NULL,
    external_id text NOT NULL,
    other_emails text[] DEFAULT '{}'::text[] NOT NULL,
    sweep bigint NOT NULL,
    gone_at timestamp with time zone,
    listed_fragment bytea,
    listed_content bytea,
    decide_due boolean DEFAULT false NOT NULL,
    action text,
    wanted jsonb,
    wanted_digest bytea,
    wanted_source bytea,
    wanted_version bigint DEFAULT 0 NOT NULL,
    applied_digest bytea,
    applied_source bytea,
    applied_version bigint DEFAULT 0 NOT NULL,
    applied_at timestamp with time zone,
    claim_owner uuid,
    fence bigint DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    retry_at timestamp with time zone,
    last_error text,
    urgency smallint DEFAULT 4 NOT NULL,
    wanted_run uuid,
    wanted_window timestamp with time zone,
    removes boolean DEFAULT false NOT NULL,
    released_version bigint DEFAULT 0 NOT NULL,
    applied_recording boolean DEFAULT false NOT NULL,
    asked_at timestamp with time zone,
    audit_at timestamp with time zone,
    PRIMARY KEY (bridge, user_id),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
) WITH (fillfactor=80);
CREATE INDEX directory_users_audit ON directory_users USING btree (bridge, audit_at) WHERE ((applied_digest IS NOT NULL) AND (gone_at IS NULL));
CREATE INDEX directory_users_claimed ON directory_users USING btree (bridge, claim_owner) WHERE (claim_owner IS NOT NULL);
CREATE INDEX directory_users_concerned ON directory_users USING btree (bridge, user_id) WHERE (decide_due OR (wanted_version > 0) OR (applied_digest IS NOT NULL));
CREATE INDEX directory_users_due ON directory_users USING btree (bridge, user_id) WHERE decide_due;
CREATE INDEX directory_users_email ON directory_users USING btree (bridge, email) WHERE ((email <> ''::text) AND (gone_at IS NULL));
CREATE INDEX directory_users_external_id ON directory_users USING btree (bridge, external_id) WHERE ((external_id <> ''::text) AND (gone_at IS NULL));
CREATE INDEX directory_users_gone ON directory_users USING btree (bridge, gone_at) WHERE (gone_at IS NOT NULL);
CREATE INDEX directory_users_other_emails ON directory_users USING gin (other_emails) WHERE ((other_emails <> '{}'::text[]) AND (gone_at IS NULL));
CREATE INDEX directory_users_ready ON directory_users USING btree (bridge, urgency, user_id) WHERE ((wanted_version > applied_version) AND (gone_at IS NULL) AND ((NOT removes) OR (released_version = wanted_version)));
CREATE INDEX directory_users_removals ON directory_users USING btree (bridge, user_id) WHERE ((wanted_version > applied_version) AND (gone_at IS NULL) AND removes AND (released_version < wanted_version));
CREATE INDEX directory_users_source ON directory_users USING btree (bridge, applied_source) WHERE (applied_source IS NOT NULL);
CREATE INDEX directory_users_unasked ON directory_users USING btree (bridge, user_id) WHERE ((asked_at IS NULL) AND (gone_at IS NULL));
COMMENT ON TABLE directory_users IS 'Members of the BLN organization: the keys we match by, the fragment last seen, what should be there and what is.';
COMMENT ON COLUMN directory_users.listed_fragment IS 'Digest of what the last list row showed under our keys; null: nothing.';
COMMENT ON COLUMN directory_users.listed_content IS 'Digest of the last list row''s otherInfo, to notice that an unwritable user was changed.';
COMMENT ON COLUMN directory_users.action IS 'write or clear: what brings applied to wanted.';
COMMENT ON COLUMN directory_users.wanted_version IS 'Pending is a fact: wanted_version > applied_version.';
COMMENT ON COLUMN directory_users.fence IS 'Goes up with every claim; statements of an older claim change nothing.';
COMMENT ON COLUMN directory_users.urgency IS 'The priority of the run that wants it: 1 on demand, 2 collect, 3 sweep and census, 4 backfill and plan.';
COMMENT ON COLUMN directory_users.wanted_run IS 'The run that made it pending.';
COMMENT ON COLUMN directory_users.wanted_window IS 'The end of the window that brought the change, on NameCoach''s clock; null: no window did.';
COMMENT ON COLUMN directory_users.removes IS 'What is wanted takes a recording or a whole fragment away: the guard counts it.';
COMMENT ON COLUMN directory_users.released_version IS 'The wanted_version that the guard, or a person, has let through although it removes.';
COMMENT ON COLUMN directory_users.applied_recording IS 'What stands there has a recording, or what we wrote may have: to want none is a removal. Of others, whoever reads the user to write it tells.';
COMMENT ON COLUMN directory_users.asked_at IS 'When NameCoach was asked about the user''s keys, or a walk from the beginning has brought all that there is; null: never.';
COMMENT ON COLUMN directory_users.audit_at IS 'When the user is to be read, to see whether our fragment still stands there, if list rows do not show it.';

CREATE TABLE halts (
    bridge text NOT NULL,
    halted_at timestamp with time zone NOT NULL,
    reason text,
    run uuid,
    resumed_at timestamp with time zone DEFAULT now() NOT NULL,
    resumed_reason text NOT NULL,
    PRIMARY KEY (bridge, halted_at),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
COMMENT ON TABLE halts IS 'Halts that a person has lifted, and why.';

CREATE TABLE holds (
    bridge text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    users bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    content bytea,
    since timestamp with time zone DEFAULT now() NOT NULL,
    checked_at timestamp with time zone DEFAULT now() NOT NULL,
    ignored_at timestamp with time zone,
    ignored_reason text,
    PRIMARY KEY (bridge, kind, subject),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
CREATE INDEX holds_reason ON holds USING btree (bridge, reason);
COMMENT ON TABLE holds IS 'People that are not written, and why. Kind person: a NameCoach person; kind user: a directory user.';
COMMENT ON COLUMN holds.content IS 'The user''s listed_content when it was found unwritable.';
COMMENT ON COLUMN holds.ignored_at IS 'A person has decided that nothing is to be done about it: it stays held and is not counted.';

CREATE TABLE journal (
    bridge text NOT NULL,
    entry bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
    run uuid NOT NULL,
    user_id bigint NOT NULL,
    fence bigint NOT NULL,
    action text NOT NULL,
    state text NOT NULL,
    before bytea,
    before_fragment bytea,
    after_fragment bytea,
    version bigint DEFAULT 0 NOT NULL,
    source bytea,
    note text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone,
    PRIMARY KEY (bridge, entry),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
CREATE INDEX journal_open ON journal USING btree (bridge, user_id) WHERE (state = 'sending'::text);
CREATE INDEX journal_run ON journal USING btree (bridge, run);
CREATE INDEX journal_settled ON journal USING btree (bridge, settled_at) WHERE (settled_at IS NOT NULL);
CREATE INDEX journal_user ON journal USING btree (bridge, user_id, entry);
COMMENT ON TABLE journal IS 'Every write. State sending: the before-image is on disk, the outcome is not known yet.';
COMMENT ON COLUMN journal.before IS 'The whole otherInfo as it was read, byte for byte; null once the write is settled and nothing needs to be put back.';
COMMENT ON COLUMN journal.version IS 'The wanted_version that was written, and in source its wanted_source: whoever finds that it has landed knows it as ours.';

CREATE TABLE links (
    bridge text NOT NULL,
    person text NOT NULL,
    user_id bigint NOT NULL,
    rule text NOT NULL,
    reason text,
    linked_at timestamp with time zone DEFAULT now() NOT NULL,
    PRIMARY KEY (bridge, person),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
CREATE INDEX links_user ON links USING btree (bridge, user_id);
COMMENT ON TABLE links IS 'The decision that a person''s participants belong to a directory user. Rule hand stays until a person releases it.';

CREATE TABLE listings (
    bridge text NOT NULL,
    sweep bigint NOT NULL,
    after text DEFAULT ''::text NOT NULL,
    after_id bigint DEFAULT 0 NOT NULL,
    last_created text DEFAULT ''::text NOT NULL,
    rows bigint DEFAULT 0 NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    refused_at timestamp with time zone,
    PRIMARY KEY (bridge, sweep),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
COMMENT ON TABLE listings IS 'One pass through the BLN directory, page by page.';
COMMENT ON COLUMN listings.refused_at IS 'It came to its end, but showed too few users to be believed.';

CREATE TABLE participants (
    bridge text NOT NULL,
    participant bytea NOT NULL,
    person text NOT NULL,
    email text NOT NULL,
    institution_id text NOT NULL,
    event_access_code text NOT NULL,
    event_title text NOT NULL,
    first_name text NOT NULL,
    last_name text NOT NULL,
    name_badge_link text NOT NULL,
    recording_link text NOT NULL,
    recording_id text NOT NULL,
    recording_date text NOT NULL,
    attributes jsonb,
    content bytea NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    link_due boolean DEFAULT true NOT NULL,
    doubt_due boolean DEFAULT true NOT NULL,
    created_run uuid,
    seen_run uuid,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    missing_since timestamp with time zone,
    replaced boolean DEFAULT false NOT NULL,
    found_at timestamp with time zone,
    absences integer DEFAULT 0 NOT NULL,
    asked_run uuid,
    PRIMARY KEY (bridge, participant),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
) WITH (fillfactor=85);
CREATE INDEX participants_badge ON participants USING btree (bridge, name_badge_link) WHERE (name_badge_link <> ''::text);
CREATE INDEX participants_doubt ON participants USING btree (bridge, participant) WHERE doubt_due;
CREATE INDEX participants_due ON participants USING btree (bridge, person) WHERE link_due;
CREATE INDEX participants_found ON participants USING btree (bridge, found_at) WHERE (found_at IS NOT NULL);
CREATE INDEX participants_missing ON participants USING btree (bridge, person) WHERE (missing_since IS NOT NULL);
CREATE INDEX participants_person ON participants USING btree (bridge, person);
CREATE INDEX participants_recording ON participants USING btree (bridge, recording_id) WHERE (recording_id <> ''::text);
COMMENT ON TABLE participants IS 'NameCoach rows: one person in one event. Empty text: NameCoach has nothing.';
COMMENT ON COLUMN participants.participant IS 'Digest of event, folded address, institution id and badge link: NameCoach rows have no id.';
COMMENT ON COLUMN participants.person IS 'email:ADDRESS (case-folded), else id:INSTITUTION_ID, else row:DIGEST.';
COMMENT ON COLUMN participants.content IS 'Digest of what may reach BLN or a link, volatile URL queries left out.';
COMMENT ON COLUMN participants.link_due IS 'New or changed since its person was last linked.';
COMMENT ON COLUMN participants.doubt_due IS 'New or changed, and not yet compared with rows whose place it may have taken.';
COMMENT ON COLUMN participants.created_run IS 'The run, or the question about its person, that brought it first.';
COMMENT ON COLUMN participants.seen_run IS 'The last walk from the beginning, or question about its person, that brought it; else what brought it last changed.';
COMMENT ON COLUMN participants.seen_at IS 'When it was last brought by a walk from the beginning or a question, or brought changed.';
COMMENT ON COLUMN participants.missing_since IS 'A whole walk from the beginning, or an answer about its person, did not bring it. It speaks on: absence is not evidence.';
COMMENT ON COLUMN participants.replaced IS 'It speaks for nobody: missing, and a row that came later stands in its place (one of the same person in the same event, or one of somebody else with its badge or recording), or enough complete censuses did not bring it.';
COMMENT ON COLUMN participants.found_at IS 'A search brought it new or changed, and no window has brought it since: when, on NameCoach''s clock.';
COMMENT ON COLUMN participants.absences IS 'In how many complete censuses, one after the other, an answer about its person did not show it.';
COMMENT ON COLUMN participants.asked_run IS 'The last census that asked about its person.';

CREATE TABLE plan_steps (
    bridge text NOT NULL,
    run uuid NOT NULL,
    user_id bigint NOT NULL,
    action text NOT NULL,
    wanted jsonb,
    digest bytea,
    version bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (bridge, run, user_id),
    FOREIGN KEY (bridge, run) REFERENCES runs(bridge, run) ON DELETE CASCADE
);
COMMENT ON TABLE plan_steps IS 'What a plan would do, and clears that the guard has staged.';
COMMENT ON COLUMN plan_steps.version IS 'The wanted_version that was planned or staged: what was wanted since is another thing.';

CREATE TABLE runs (
    bridge text NOT NULL,
    run uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    since timestamp with time zone,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    counts jsonb,
    error text,
    resumed_at timestamp with time zone,
    phase text DEFAULT ''::text NOT NULL,
    place jsonb,
    progress jsonb,
    priority smallint DEFAULT 4 NOT NULL,
    hosted uuid,
    requests_namecoach bigint DEFAULT 0 NOT NULL,
    requests_bln bigint DEFAULT 0 NOT NULL,
    approved_at timestamp with time zone,
    approved_reason text,
    PRIMARY KEY (bridge, run),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
CREATE INDEX runs_recent ON runs USING btree (bridge, kind, started_at DESC);
CREATE INDEX runs_running ON runs USING btree (bridge) WHERE (status = 'running'::text);
COMMENT ON TABLE runs IS 'Every collect, sweep, census, backfill, plan or revert with its counts.';
COMMENT ON COLUMN runs.phase IS 'What of a running run is to be done next; a job says that somebody shall do it.';
COMMENT ON COLUMN runs.place IS 'How far the phase is.';
COMMENT ON COLUMN runs.progress IS 'How far the phase is, for people.';
COMMENT ON COLUMN runs.priority IS '1 on demand, 2 collect, 3 sweep and census, 4 backfill and plan.';
COMMENT ON COLUMN runs.hosted IS 'The process of the one-shot command that started it and waits for it; null: the daemon''s.';

CREATE TABLE schedules (
    bridge text NOT NULL,
    kind text NOT NULL,
    expression text NOT NULL,
    due_at timestamp with time zone NOT NULL,
    PRIMARY KEY (bridge, kind),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
COMMENT ON TABLE schedules IS 'When the next run of each kind is due. Whoever moves due_at on starts the run, in the same transaction.';

CREATE UNLOGGED TABLE staged_participants (
    bridge text NOT NULL,
    participant bytea NOT NULL,
    person text NOT NULL,
    email text NOT NULL,
    institution_id text NOT NULL,
    event_access_code text NOT NULL,
    event_title text NOT NULL,
    first_name text NOT NULL,
    last_name text NOT NULL,
    name_badge_link text NOT NULL,
    recording_link text NOT NULL,
    recording_id text NOT NULL,
    recording_date text NOT NULL,
    attributes jsonb,
    content bytea NOT NULL,
    reading uuid NOT NULL,
    owner uuid NOT NULL,
    staged_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE INDEX staged_participants_reading ON staged_participants USING btree (bridge, reading);
COMMENT ON TABLE staged_participants IS 'Rows of a window while its pages are read. They count only when the window is whole.';

CREATE TABLE workers (
    bridge text NOT NULL,
    owner uuid NOT NULL,
    host text NOT NULL,
    heartbeat_at timestamp with time zone NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    serves boolean DEFAULT false NOT NULL,
    PRIMARY KEY (bridge, owner),
    FOREIGN KEY (bridge) REFERENCES bridges(bridge) ON DELETE CASCADE
);
COMMENT ON TABLE workers IS 'Live processes. A claim whose owner has no fresh heartbeat may be taken over.';
COMMENT ON COLUMN workers.serves IS 'It is a daemon; else a one-shot command, which starts nothing that is due.';
