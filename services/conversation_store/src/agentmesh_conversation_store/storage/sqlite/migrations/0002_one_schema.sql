-- What the store keeps on every database: agents by column, and a feed of each tenant's events.

CREATE TABLE conversation_agents (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, agent)
) WITHOUT ROWID;
INSERT INTO conversation_agents
    SELECT DISTINCT tenant, conversation_id, value FROM conversation_facts, json_each(agents);

ALTER TABLE events ADD COLUMN feed_position INTEGER NOT NULL DEFAULT 0;
UPDATE events SET feed_position = earlier.position FROM (
    SELECT rowid AS event, row_number() OVER (PARTITION BY tenant ORDER BY rowid) AS position
    FROM events
) AS earlier WHERE events.rowid = earlier.event;
CREATE UNIQUE INDEX events_feed ON events (tenant, feed_position);

CREATE TABLE tenant_feeds (
    tenant TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO tenant_feeds SELECT tenant, max(feed_position) FROM events GROUP BY tenant;
