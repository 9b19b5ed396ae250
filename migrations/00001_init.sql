-- +goose Up

CREATE TABLE bridges (
    bridge              text PRIMARY KEY,
    organization_id     bigint NOT NULL,
    halted_at           timestamptz,
    halt_reason         text,
    halt_run            uuid,
    rows_carry_fragment boolean,
    directory_sweep     bigint NOT NULL DEFAULT 0,
    directory_listed_at timestamptz,
    layout              text,
    created_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE bridges IS 'One NameCoach account joined to one BLN organization.';
COMMENT ON COLUMN bridges.organization_id IS 'The organization this state belongs to: a bridge that is pointed at another one must not use it.';
COMMENT ON COLUMN bridges.halted_at IS 'Set when a foreign key was lost on a write. While it is set no write is made.';
COMMENT ON COLUMN bridges.rows_carry_fragment IS 'Whether list rows of this organization show our fragment; null until a written user was seen in a list answer.';
COMMENT ON COLUMN bridges.layout IS 'Where in otherInfo the fragment stands and what it consists of: every digest of a fragment is of this layout.';
COMMENT ON COLUMN bridges.directory_sweep IS 'Number of the last complete listing of the directory; 0: never complete, nobody may be linked.';

CREATE TABLE halts (
    bridge         text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    halted_at      timestamptz NOT NULL,
    reason         text,
    run            uuid,
    resumed_at     timestamptz NOT NULL DEFAULT now(),
    resumed_reason text NOT NULL,
    PRIMARY KEY (bridge, halted_at)
);
COMMENT ON TABLE halts IS 'Halts that a person has lifted, and why.';

CREATE TABLE workers (
    bridge       text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    owner        uuid NOT NULL,
    host         text NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    PRIMARY KEY (bridge, owner)
);
COMMENT ON TABLE workers IS 'Live processes. A claim whose owner has no fresh heartbeat may be taken over.';

CREATE TABLE runs (
    bridge     text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    run        uuid NOT NULL,
    kind       text NOT NULL,
    status     text NOT NULL,
    since      timestamptz,
    owner      uuid,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    counts     jsonb,
    error      text,
    PRIMARY KEY (bridge, run)
);
CREATE INDEX runs_recent ON runs (bridge, kind, started_at DESC);
COMMENT ON TABLE runs IS 'Every collect, sweep, census, backfill, plan or revert with its counts. Status running without a live owner: interrupted.';

CREATE TABLE cursors (
    bridge        text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    stream        text NOT NULL,
    since         timestamptz NOT NULL,
    until         timestamptz NOT NULL,
    walk          jsonb,
    moved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bridge, stream)
);
COMMENT ON TABLE cursors IS 'Stream "participants": everything NameCoach changed from since until until is stored. Any other stream is the walk of one run.';
COMMENT ON COLUMN cursors.walk IS 'Which window comes next and how wide it is; null for stream participants.';

CREATE TABLE listings (
    bridge       text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    sweep        bigint NOT NULL,
    after        text NOT NULL DEFAULT '',
    after_id     bigint NOT NULL DEFAULT 0,
    last_created text NOT NULL DEFAULT '',
    rows         bigint NOT NULL DEFAULT 0,
    started_at   timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    refused_at   timestamptz,
    PRIMARY KEY (bridge, sweep)
);
COMMENT ON TABLE listings IS 'One pass through the BLN directory, page by page.';
COMMENT ON COLUMN listings.refused_at IS 'It came to its end, but showed too few users to be believed.';

CREATE TABLE participants (
    bridge            text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    participant       bytea NOT NULL,
    person            text NOT NULL,
    email             text NOT NULL,
    institution_id    text NOT NULL,
    event_access_code text NOT NULL,
    event_title       text NOT NULL,
    first_name        text NOT NULL,
    last_name         text NOT NULL,
    name_badge_link   text NOT NULL,
    recording_link    text NOT NULL,
    recording_id      text NOT NULL,
    recording_date    text NOT NULL,
    attributes        jsonb,
    content           bytea NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT now(),
    link_due          boolean NOT NULL DEFAULT true,
    doubt_due         boolean NOT NULL DEFAULT true,
    created_run       uuid,
    seen_run          uuid,
    seen_at           timestamptz NOT NULL DEFAULT now(),
    created_at        timestamptz NOT NULL DEFAULT now(),
    missing_since     timestamptz,
    replaced          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (bridge, participant)
) WITH (fillfactor = 85);
CREATE INDEX participants_person ON participants (bridge, person);
CREATE INDEX participants_badge ON participants (bridge, name_badge_link) WHERE name_badge_link <> '';
CREATE INDEX participants_recording ON participants (bridge, recording_id) WHERE recording_id <> '';
CREATE INDEX participants_doubt ON participants (bridge, participant) WHERE doubt_due;
CREATE INDEX participants_missing ON participants (bridge, person) WHERE missing_since IS NOT NULL;
CREATE INDEX participants_due ON participants (bridge, person) WHERE link_due;
COMMENT ON TABLE participants IS 'NameCoach rows: one person in one event. Empty text: NameCoach has nothing.';
COMMENT ON COLUMN participants.participant IS 'Digest of event, folded address, institution id and badge link: NameCoach rows have no id.';
COMMENT ON COLUMN participants.person IS 'email:ADDRESS (case-folded), else id:INSTITUTION_ID, else row:DIGEST.';
COMMENT ON COLUMN participants.content IS 'Digest of what may reach BLN or a link, volatile URL queries left out.';
COMMENT ON COLUMN participants.doubt_due IS 'New or changed, and not yet compared with rows whose place it may have taken.';
COMMENT ON COLUMN participants.seen_at IS 'When it was last brought by a walk from the beginning or a question, or brought changed.';
COMMENT ON COLUMN participants.created_run IS 'The run, or the question about its person, that brought it first.';
COMMENT ON COLUMN participants.seen_run IS 'The last walk from the beginning, or question about its person, that brought it; else what brought it last changed.';
COMMENT ON COLUMN participants.missing_since IS 'A whole walk from the beginning, or an answer about its person, did not bring it. It speaks on: absence is not evidence.';
COMMENT ON COLUMN participants.replaced IS 'Missing, and a row that came later stands in its place: one of the same person in the same event, or one of somebody else with its badge or recording. It speaks for nobody.';
COMMENT ON COLUMN participants.link_due IS 'New or changed since its person was last linked.';

CREATE UNLOGGED TABLE staged_participants (LIKE participants INCLUDING DEFAULTS);
ALTER TABLE staged_participants ADD COLUMN reading uuid NOT NULL, ADD COLUMN owner uuid NOT NULL, ADD COLUMN staged_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE staged_participants DROP COLUMN link_due, DROP COLUMN doubt_due, DROP COLUMN changed_at, DROP COLUMN created_run, DROP COLUMN seen_run, DROP COLUMN seen_at, DROP COLUMN created_at, DROP COLUMN missing_since, DROP COLUMN replaced;
CREATE INDEX staged_participants_reading ON staged_participants (bridge, reading);
COMMENT ON TABLE staged_participants IS 'Rows of a window while its pages are read. They count only when the window is whole.';

CREATE TABLE directory_users (
    bridge          text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    user_id         bigint NOT NULL,
    username        text NOT NULL,
    email           text NOT NULL,
    external_id     text NOT NULL,
    other_emails    text[] NOT NULL DEFAULT '{}',
    sweep           bigint NOT NULL,
    gone_at         timestamptz,
    listed_fragment bytea,
    listed_content  bytea,
    decide_due      boolean NOT NULL DEFAULT false,
    action          text,
    wanted          jsonb,
    wanted_digest   bytea,
    wanted_source   bytea,
    wanted_version  bigint NOT NULL DEFAULT 0,
    applied_digest  bytea,
    applied_source  bytea,
    applied_version bigint NOT NULL DEFAULT 0,
    applied_at      timestamptz,
    claim_owner     uuid,
    fence           bigint NOT NULL DEFAULT 0,
    attempts        integer NOT NULL DEFAULT 0,
    retry_at        timestamptz,
    last_error      text,
    PRIMARY KEY (bridge, user_id)
) WITH (fillfactor = 80);
CREATE INDEX directory_users_external_id ON directory_users (bridge, external_id) WHERE external_id <> '' AND gone_at IS NULL;
CREATE INDEX directory_users_email ON directory_users (bridge, email) WHERE email <> '' AND gone_at IS NULL;
CREATE INDEX directory_users_other_emails ON directory_users USING gin (other_emails) WHERE other_emails <> '{}' AND gone_at IS NULL;
CREATE INDEX directory_users_due ON directory_users (bridge, user_id) WHERE decide_due;
CREATE INDEX directory_users_concerned ON directory_users (bridge, user_id) WHERE decide_due OR wanted_version > 0 OR applied_digest IS NOT NULL;
CREATE INDEX directory_users_pending ON directory_users (bridge, user_id) WHERE wanted_version > applied_version;
COMMENT ON TABLE directory_users IS 'Members of the BLN organization: the keys we match by, the fragment last seen, what should be there and what is.';
COMMENT ON COLUMN directory_users.listed_fragment IS 'Digest of what the last list row showed under our keys; null: nothing.';
COMMENT ON COLUMN directory_users.listed_content IS 'Digest of the last list row''s otherInfo, to notice that an unwritable user was changed.';
COMMENT ON COLUMN directory_users.action IS 'write or clear: what brings applied to wanted.';
COMMENT ON COLUMN directory_users.wanted_version IS 'Pending is a fact: wanted_version > applied_version.';
COMMENT ON COLUMN directory_users.fence IS 'Goes up with every claim; statements of an older claim change nothing.';

CREATE TABLE links (
    bridge    text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    person    text NOT NULL,
    user_id   bigint NOT NULL,
    rule      text NOT NULL,
    reason    text,
    linked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bridge, person)
);
CREATE INDEX links_user ON links (bridge, user_id);
COMMENT ON TABLE links IS 'The decision that a person''s participants belong to a directory user. Rule hand stays until a person releases it.';

CREATE TABLE holds (
    bridge     text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    kind       text NOT NULL,
    subject    text NOT NULL,
    reason     text NOT NULL,
    detail     text NOT NULL,
    users      bigint[] NOT NULL DEFAULT '{}',
    content    bytea,
    since      timestamptz NOT NULL DEFAULT now(),
    checked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bridge, kind, subject)
);
CREATE INDEX holds_reason ON holds (bridge, reason);
COMMENT ON TABLE holds IS 'People that are not written, and why. Kind person: a NameCoach person; kind user: a directory user.';
COMMENT ON COLUMN holds.content IS 'The user''s listed_content when it was found unwritable.';

CREATE TABLE journal (
    bridge          text NOT NULL REFERENCES bridges ON DELETE CASCADE,
    entry           bigint GENERATED ALWAYS AS IDENTITY,
    run             uuid NOT NULL,
    user_id         bigint NOT NULL,
    fence           bigint NOT NULL,
    action          text NOT NULL,
    state           text NOT NULL,
    before          bytea,
    before_fragment bytea,
    after_fragment  bytea,
    version         bigint NOT NULL DEFAULT 0,
    source          bytea,
    note            text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    settled_at      timestamptz,
    PRIMARY KEY (bridge, entry)
);
CREATE INDEX journal_user ON journal (bridge, user_id, entry);
CREATE INDEX journal_run ON journal (bridge, run);
CREATE INDEX journal_open ON journal (bridge, user_id) WHERE state = 'sending';
COMMENT ON TABLE journal IS 'Every write. State sending: the before-image is on disk, the outcome is not known yet.';
COMMENT ON COLUMN journal.version IS 'The wanted_version that was written, and in source its wanted_source: whoever finds that it has landed knows it as ours.';
COMMENT ON COLUMN journal.before IS 'The whole otherInfo as it was read, byte for byte; null once the write is settled and nothing needs to be put back.';

CREATE TABLE plan_steps (
    bridge  text NOT NULL,
    run     uuid NOT NULL,
    user_id bigint NOT NULL,
    action  text NOT NULL,
    wanted  jsonb,
    digest  bytea,
    PRIMARY KEY (bridge, run, user_id),
    FOREIGN KEY (bridge, run) REFERENCES runs ON DELETE CASCADE
);
COMMENT ON TABLE plan_steps IS 'What a plan would do, and clears that the guard has staged.';

-- +goose Down

DROP TABLE plan_steps, journal, holds, links, directory_users, staged_participants, participants, listings, cursors, runs, workers, halts, bridges;
