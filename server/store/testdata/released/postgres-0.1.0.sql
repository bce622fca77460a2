-- What pseudo-server 0.1.0 made of the history in released_test.go, by pg_dump --inserts.
CREATE TABLE public.pseudo_cluster (
    id text NOT NULL,
    revision bigint NOT NULL,
    state json NOT NULL
);
CREATE TABLE public.pseudo_document (
    kind text NOT NULL,
    key text NOT NULL,
    revision bigint NOT NULL,
    value bytea NOT NULL
);
CREATE TABLE public.pseudo_entry (
    cluster text NOT NULL,
    row_id bigint NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint DEFAULT 0 NOT NULL,
    key bytea NOT NULL,
    sum bytea NOT NULL,
    type text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    size bigint NOT NULL,
    raw_size bigint NOT NULL,
    payload bytea NOT NULL
);
ALTER TABLE ONLY public.pseudo_entry ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE TABLE public.pseudo_schema (
    version integer NOT NULL
);
CREATE TABLE public.pseudo_snapshot (
    cluster text NOT NULL,
    seq bigint NOT NULL,
    snapshot json NOT NULL
);
INSERT INTO public.pseudo_cluster VALUES ('d-one', 3, '{"id":"d-one","born":"XX442JJU56T6IBBBFW2QYHJEV4","revision":3,"next_row":5,"oldest":1,"first_report":"2026-11-28T01:16:04.082170664Z","last_report":"2026-11-28T01:16:04.087519651Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"latest":{"seq":3,"version":3,"received_at":"2026-11-28T01:16:04.087519651Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Pod":{"objects":1,"bytes":16},"*v1.Service":{"objects":1,"bytes":7}},"objects":2,"bytes":23,"raw_bytes":46,"added":0,"changed":0,"removed":1},"retained":{"objects":4,"bytes":38}}');
INSERT INTO public.pseudo_cluster VALUES ('d-two', 1, '{"id":"d-two","born":"MOXG3JMVOX5IIJAEKHCHCIXAOV","revision":1,"next_row":2,"oldest":1,"first_report":"2026-11-28T01:16:04.088540095Z","last_report":"2026-11-28T01:16:04.088540095Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"latest":{"seq":1,"version":7,"received_at":"2026-11-28T01:16:04.088540095Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Namespace":{"objects":1,"bytes":9}},"objects":1,"bytes":9,"raw_bytes":18,"added":1,"changed":0,"removed":0},"retained":{"objects":1,"bytes":9}}');
INSERT INTO public.pseudo_document VALUES ('watchers', 'd-one', 1, '\x7b2261223a317d');
INSERT INTO public.pseudo_entry VALUES ('d-one', 3, 2, 0, '\x67f81d72a6a88d3f30de51bf6fe3f7c1', '\xa4fdb84f4acd3135829dddda6927e86d', '*v1.Service', 'shop', 'web', 7, 14, '\x73657276696365');
INSERT INTO public.pseudo_entry VALUES ('d-one', 4, 2, 0, '\xd93a2a9d87c4b9d74d3fa4c8e1b386a5', '\x899f73f1bf80dc6325e1bb8a3c8211a2', '*v1.Pod', 'shop', 'web-1', 16, 32, '\x706f64206f6e652c206368616e676564');
INSERT INTO public.pseudo_entry VALUES ('d-one', 1, 1, 2, '\xd93a2a9d87c4b9d74d3fa4c8e1b386a5', '\x3bee28009f9b5631303a0ce9a171b3db', '*v1.Pod', 'shop', 'web-1', 7, 14, '\x706f64206f6e65');
INSERT INTO public.pseudo_entry VALUES ('d-one', 2, 1, 3, '\xba0bcf1f7237a64aa3523b0a6bbf3b4c', '\x4e3a29094d12a89540ac5bd693ba252d', '*v1.Node', '', 'node-1', 8, 16, '\x6e6f6465206f6e65');
INSERT INTO public.pseudo_entry VALUES ('d-two', 1, 1, 0, '\x2577c8df433c492f374a15f398125686', '\x3ad83e335bbed63d5d611ad23bbaec55', '*v1.Namespace', '', 'shop', 9, 18, '\x6e616d657370616365');
INSERT INTO public.pseudo_schema VALUES (1);
INSERT INTO public.pseudo_snapshot VALUES ('d-one', 1, '{"seq":1,"version":1,"received_at":"2026-11-28T01:16:04.082170664Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Node":{"objects":1,"bytes":8},"*v1.Pod":{"objects":1,"bytes":7}},"objects":2,"bytes":15,"raw_bytes":30,"added":2,"changed":0,"removed":0}');
INSERT INTO public.pseudo_snapshot VALUES ('d-one', 2, '{"seq":2,"version":2,"received_at":"2026-11-28T01:16:04.085271425Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Node":{"objects":1,"bytes":8},"*v1.Pod":{"objects":1,"bytes":16},"*v1.Service":{"objects":1,"bytes":7}},"objects":3,"bytes":31,"raw_bytes":62,"added":1,"changed":1,"removed":0}');
INSERT INTO public.pseudo_snapshot VALUES ('d-one', 3, '{"seq":3,"version":3,"received_at":"2026-11-28T01:16:04.087519651Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Pod":{"objects":1,"bytes":16},"*v1.Service":{"objects":1,"bytes":7}},"objects":2,"bytes":23,"raw_bytes":46,"added":0,"changed":0,"removed":1}');
INSERT INTO public.pseudo_snapshot VALUES ('d-two', 1, '{"seq":1,"version":7,"received_at":"2026-11-28T01:16:04.088540095Z","reporter":{"agent_id":1,"source_ip":"","peer":""},"types":{"*v1.Namespace":{"objects":1,"bytes":9}},"objects":1,"bytes":9,"raw_bytes":18,"added":1,"changed":0,"removed":0}');
ALTER TABLE ONLY public.pseudo_cluster
    ADD CONSTRAINT pseudo_cluster_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pseudo_document
    ADD CONSTRAINT pseudo_document_pkey PRIMARY KEY (kind, key);
ALTER TABLE ONLY public.pseudo_entry
    ADD CONSTRAINT pseudo_entry_pkey PRIMARY KEY (cluster, row_id);
ALTER TABLE ONLY public.pseudo_snapshot
    ADD CONSTRAINT pseudo_snapshot_pkey PRIMARY KEY (cluster, seq);
CREATE INDEX pseudo_entry_to ON public.pseudo_entry USING btree (cluster, to_seq) WHERE (to_seq > 0);
