-- rows: 1
INSERT INTO api_keys (id, prefix, sha256, name, scope, last_used_at, expires_at, revoked_at, project_id) VALUES ('key-631b51ab12b1ad3d'::VARCHAR, 'rgk_1492a79423b4'::VARCHAR, '2c906d4e67850029c9a420ba3b5756ed89b07692782b2313a74f6cc1dfe0d4e3'::VARCHAR, 'recorded'::VARCHAR, 'write'::VARCHAR, NULL::TIMESTAMP WITH TIME ZONE, NULL::TIMESTAMP WITH TIME ZONE, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING api_keys.seq, api_keys.created_at;

-- rows: 1
SELECT api_keys.id, api_keys.seq, api_keys.prefix, api_keys.sha256, api_keys.name, api_keys.scope, api_keys.created_at, api_keys.last_used_at, api_keys.expires_at, api_keys.revoked_at, api_keys.project_id
FROM api_keys
WHERE api_keys.id = 'key-631b51ab12b1ad3d'::VARCHAR;

-- rows: 1
SELECT api_keys.id, api_keys.seq, api_keys.prefix, api_keys.sha256, api_keys.name, api_keys.scope, api_keys.created_at, api_keys.last_used_at, api_keys.expires_at, api_keys.revoked_at, api_keys.project_id
FROM api_keys
WHERE api_keys.prefix = 'rgk_1492a79423b4'::VARCHAR AND api_keys.revoked_at IS NULL AND (api_keys.expires_at IS NULL OR api_keys.expires_at > now());

-- rows: 1
UPDATE api_keys SET last_used_at=now() WHERE api_keys.id = 'key-631b51ab12b1ad3d'::VARCHAR AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < now() - '0:01:00'::interval) RETURNING api_keys.id;

-- rows: 1
INSERT INTO workers (name, service, version, queues, offers) VALUES ('w1'::VARCHAR, 'worker'::VARCHAR, '0'::VARCHAR, '["train.cpu"]'::jsonb::JSONB, '{"targets": {"cpu": {}}}'::jsonb::JSONB) ON CONFLICT (name) DO UPDATE SET service = 'worker'::VARCHAR, version = '0'::VARCHAR, queues = '["train.cpu"]'::jsonb::JSONB, offers = '{"targets": {"cpu": {}}}'::jsonb::JSONB, seen_at = now();

-- rows: 1
INSERT INTO workers (name, service, version, queues, offers) VALUES ('w1'::VARCHAR, 'worker'::VARCHAR, '0'::VARCHAR, '["train.cpu"]'::jsonb::JSONB, '{"targets": {"cpu": {}}}'::jsonb::JSONB) ON CONFLICT (name) DO UPDATE SET service = 'worker'::VARCHAR, version = '0'::VARCHAR, queues = '["train.cpu"]'::jsonb::JSONB, offers = '{"targets": {"cpu": {}}}'::jsonb::JSONB, seen_at = now();

-- rows: 1
WITH held AS (
    INSERT INTO idempotency_keys (project_id, key, digest, admitted, job_id)
    SELECT 'default', CAST(NULL AS text), '', true, 'job-5faa57c58de6ac5a'
    WHERE CAST(NULL AS text) IS NOT NULL
      AND (false OR NOT EXISTS (SELECT FROM project_limits WHERE project_id = 'default'))
    ON CONFLICT DO NOTHING RETURNING job_id
), job AS (
    INSERT INTO jobs (id, project_id, name, spec, labels, warnings, status, last_event, priority, admitted_at)
    SELECT 'job-5faa57c58de6ac5a', 'default', 'test', CAST('{"name": "test", "recipe": null, "dataset": {"source": "trc2", "uri": "/data/corpus", "reading": {"text_key": null, "id_key": null, "date_key": null, "documents": "file", "max_bad_records": 0}, "cleaning": ["fix_text", "drop_empty", "drop_duplicates"], "tokenizer": "checkpoint", "special_tokens": "text", "max_sequence_length": 512, "validation": {"fraction": 0.1, "order": "chronological", "uri": null, "near_duplicates": 0.8}, "packing": {"pack_sequences": true, "remainder": "pad", "short_seq_prob": 0.0, "seed": 0, "document_boundaries": false}, "require": {"min_train_tokens": null, "max_dropped_share": null, "max_duplicate_share": null, "max_padding_share": null, "max_eval_overlap": null, "max_tokens_per_word": null, "languages": []}, "examples_per_file": 50000}, "base_checkpoint": {"uri": "/models/base"}, "target": {"kind": "cpu", "devices": 1, "strategy": "auto"}, "training": {"batch_size": 8, "max_steps": null, "seed": 1, "shuffle": true, "data_subset": null, "mixture": [], "dataset_weight": 1.0, "max_sequence_length": null, "precision": "fp32", "micro_batch_size": null, "activation_checkpointing": "none", "compile": false, "learning_rate": 6e-06, "dropout": {"embedding": null, "attention": null, "residual": null}, "loss": {"scaling": "num_tokens", "weight": 1.0}, "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-06, "weight_decay": 0.1, "correct_bias": true, "powers": "exact", "max_gradient_norm": 1.0, "max_gradient_value": null}, "schedule": null, "evaluate": {"every_steps": null, "at_start": true, "sets": {}, "max_windows": null}, "checkpoint": {"every_steps": 1000, "every_minutes": null, "background": true, "keep_last": 3, "keep_best": null, "keep_best_mode": null, "keep_every": null, "keep_optimizer_last": null}, "early_stopping": null, "loss_spike": null, "log_every_steps": 10, "tensorboard": true}, "output": {"formats": ["hf"], "max_shard_size": "5GB"}, "priority": "p2", "labels": {}}' AS jsonb), CAST('{}' AS jsonb), CAST('[]' AS jsonb), 'queued', 3,
           2, CASE WHEN true THEN now() END
    WHERE (CAST(NULL AS text) IS NULL OR EXISTS (SELECT FROM held))
      AND (false OR NOT EXISTS (SELECT FROM project_limits WHERE project_id = 'default'))
    RETURNING id, project_id, created_at
), stage AS (
    INSERT INTO stages (id, project_id, job_id, name, position, queue, priority, status, announced_at)
    SELECT job.id || '.' || s.name, job.project_id, job.id, s.name, s.position, s.queue, 2, s.status,
           CASE WHEN s.status = 'ready' THEN now() END
    FROM job, jsonb_to_recordset(CAST('[{"name": "prepare", "position": 0, "queue": "prepare", "status": "ready"}, {"name": "convert", "position": 1, "queue": "convert", "status": "ready"}, {"name": "train", "position": 2, "queue": "train.cpu", "status": "pending"}, {"name": "evaluate", "position": 3, "queue": "evaluate.cpu", "status": "pending"}, {"name": "export", "position": 4, "queue": "export", "status": "pending"}]' AS jsonb)) AS s (name text, position int, queue text, status text)
    RETURNING id, project_id, queue, status
), event AS (
    INSERT INTO events (job_id, project_id, seq, stage, level, type, message, data)
    SELECT job.id, job.project_id, e.seq, e.stage, e.level, e.type, e.message, e.data
    FROM job, jsonb_to_recordset(CAST('[{"stage": null, "level": "info", "type": "state", "data": {"status": "queued"}, "message": "job is queued", "seq": 1}, {"stage": "prepare", "level": "info", "type": "state", "data": {"status": "ready"}, "message": "prepare is ready", "seq": 2}, {"stage": "convert", "level": "info", "type": "state", "data": {"status": "ready"}, "message": "convert is ready", "seq": 3}]' AS jsonb))
         AS e (seq int, stage text, level text, type text, message text, data jsonb)
), message AS (
    INSERT INTO outbox (stage_id, project_id, queue, priority)
    SELECT id, project_id, queue, 2 FROM stage WHERE status = 'ready'
)
SELECT created_at FROM job;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 2
UPDATE outbox SET available_at=(now() + '0:01:00'::interval) WHERE outbox.id IN (SELECT outbox.id
FROM outbox
WHERE outbox.available_at <= now() ORDER BY outbox.priority, outbox.id
 LIMIT 100::INTEGER FOR UPDATE SKIP LOCKED) RETURNING outbox.id, outbox.queue, outbox.stage_id, outbox.priority;

-- rows: 2
DELETE FROM outbox WHERE outbox.id IN (1::BIGINT, 2::BIGINT);

-- rows: 1
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'prepare'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 0
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'prepare.cpu'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.job_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='running'::VARCHAR, epoch=(stages.epoch + 1::BIGINT), worker='w1'::VARCHAR, lease_until=(now() + '0:00:30'::interval), started_at=coalesce(stages.started_at, now()), finished_at=NULL::TIMESTAMP WITH TIME ZONE WHERE stages.id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR AND stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND NOT (EXISTS (SELECT maintenance.id
FROM maintenance
WHERE maintenance.draining)) RETURNING stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO attempts (stage_id, epoch, worker, status, reason, reason_class, message, detail, exit_status, signal, finished_at, project_id) VALUES ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 1::BIGINT, 'w1'::VARCHAR, 'running'::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::JSONB, NULL::INTEGER, NULL::INTEGER, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING attempts.started_at;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 4::BIGINT, 'prepare'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'prepare is running on w1 (attempt 1)'::VARCHAR, '{"status": "running", "attempt": 1, "worker": "w1"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE jobs SET status='running'::VARCHAR, started_at=coalesce(jobs.started_at, now()) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 5::BIGINT, NULL::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'job is running'::VARCHAR, '{"status": "running"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET lease_until=(now() + '0:00:30'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR RETURNING stages.id;

-- rows: 1
SELECT jobs.status
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 0
SELECT stages.id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR AND stages.status = 'failed'::VARCHAR
 LIMIT 1::INTEGER;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE attempts SET status='succeeded'::VARCHAR, finished_at=now() WHERE attempts.stage_id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR AND attempts.epoch = 1::BIGINT;

-- rows: 1
UPDATE stages SET status='succeeded'::VARCHAR, worker=NULL::VARCHAR, lease_until=NULL::TIMESTAMP WITH TIME ZONE, result='{"uri": "file:///d", "address": "d"}'::jsonb::JSONB, finished_at=now() WHERE stages.id = 'job-5faa57c58de6ac5a.prepare'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 6::BIGINT, 'prepare'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'prepare is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 0
UPDATE outbox SET available_at=(now() + '0:01:00'::interval) WHERE outbox.id IN (SELECT outbox.id
FROM outbox
WHERE outbox.available_at <= now() ORDER BY outbox.priority, outbox.id
 LIMIT 100::INTEGER FOR UPDATE SKIP LOCKED) RETURNING outbox.id, outbox.queue, outbox.stage_id, outbox.priority;

-- rows: 1
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'convert'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 0
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'convert.cpu'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.job_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.convert'::VARCHAR;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='running'::VARCHAR, epoch=(stages.epoch + 1::BIGINT), worker='w1'::VARCHAR, lease_until=(now() + '0:00:30'::interval), started_at=coalesce(stages.started_at, now()), finished_at=NULL::TIMESTAMP WITH TIME ZONE WHERE stages.id = 'job-5faa57c58de6ac5a.convert'::VARCHAR AND stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND NOT (EXISTS (SELECT maintenance.id
FROM maintenance
WHERE maintenance.draining)) RETURNING stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.convert'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO attempts (stage_id, epoch, worker, status, reason, reason_class, message, detail, exit_status, signal, finished_at, project_id) VALUES ('job-5faa57c58de6ac5a.convert'::VARCHAR, 1::BIGINT, 'w1'::VARCHAR, 'running'::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::JSONB, NULL::INTEGER, NULL::INTEGER, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING attempts.started_at;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 7::BIGINT, 'convert'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'convert is running on w1 (attempt 1)'::VARCHAR, '{"status": "running", "attempt": 1, "worker": "w1"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 2
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 2
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET lease_until=(now() + '0:00:30'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.convert'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR RETURNING stages.id;

-- rows: 1
SELECT jobs.status
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 0
SELECT stages.id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR AND stages.status = 'failed'::VARCHAR
 LIMIT 1::INTEGER;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 2
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.convert'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.convert'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE attempts SET status='succeeded'::VARCHAR, finished_at=now() WHERE attempts.stage_id = 'job-5faa57c58de6ac5a.convert'::VARCHAR AND attempts.epoch = 1::BIGINT;

-- rows: 1
UPDATE stages SET status='succeeded'::VARCHAR, worker=NULL::VARCHAR, lease_until=NULL::TIMESTAMP WITH TIME ZONE, result='{"uri": "file:///c"}'::jsonb::JSONB, finished_at=now() WHERE stages.id = 'job-5faa57c58de6ac5a.convert'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 8::BIGINT, 'convert'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'convert is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 2
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='ready'::VARCHAR WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 9::BIGINT, 'train'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'train is ready'::VARCHAR, '{"status": "ready"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 1
INSERT INTO outbox (stage_id, queue, priority, available_at, project_id) VALUES ('job-5faa57c58de6ac5a.train'::VARCHAR, 'train.cpu'::VARCHAR, 2::SMALLINT, (now() + '0:00:00'::interval), 'default'::VARCHAR) RETURNING outbox.id, outbox.available_at;

-- rows: 1
UPDATE stages SET available_at=(now() + '0:00:00'::interval), announced_at=(now() + '0:00:00'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR;

-- rows: 1
UPDATE outbox SET available_at=(now() + '0:01:00'::interval) WHERE outbox.id IN (SELECT outbox.id
FROM outbox
WHERE outbox.available_at <= now() ORDER BY outbox.priority, outbox.id
 LIMIT 100::INTEGER FOR UPDATE SKIP LOCKED) RETURNING outbox.id, outbox.queue, outbox.stage_id, outbox.priority;

-- rows: 1
DELETE FROM outbox WHERE outbox.id IN (3::BIGINT);

-- rows: 0
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'train'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'train.cpu'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.job_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 2
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='running'::VARCHAR, epoch=(stages.epoch + 1::BIGINT), worker='w1'::VARCHAR, lease_until=(now() + '0:00:30'::interval), started_at=coalesce(stages.started_at, now()), finished_at=NULL::TIMESTAMP WITH TIME ZONE WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND NOT (EXISTS (SELECT maintenance.id
FROM maintenance
WHERE maintenance.draining)) RETURNING stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.train'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO attempts (stage_id, epoch, worker, status, reason, reason_class, message, detail, exit_status, signal, finished_at, project_id) VALUES ('job-5faa57c58de6ac5a.train'::VARCHAR, 1::BIGINT, 'w1'::VARCHAR, 'running'::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::JSONB, NULL::INTEGER, NULL::INTEGER, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING attempts.started_at;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 10::BIGINT, 'train'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'train is running on w1 (attempt 1)'::VARCHAR, '{"status": "running", "attempt": 1, "worker": "w1"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET lease_until=(now() + '0:00:30'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR RETURNING stages.id;

-- rows: 1
SELECT jobs.status
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 0
SELECT stages.id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR AND stages.status = 'failed'::VARCHAR
 LIMIT 1::INTEGER;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.train'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET progress='{"step": 10}'::jsonb::JSONB WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR;

-- rows: 1
INSERT INTO metrics (job_id, stage, name, step, value, tokens_seen, epoch, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 'train'::VARCHAR, 'train_loss'::VARCHAR, 10::BIGINT, 2.5, 640::BIGINT, 1::BIGINT, 'default'::VARCHAR) ON CONFLICT (job_id, stage, name, step) DO UPDATE SET value = excluded.value, tokens_seen = excluded.tokens_seen, epoch = excluded.epoch, created_at = excluded.created_at;

-- rows: 1
INSERT INTO artifacts (id, job_id, stage, epoch, kind, uri, detail, project_id) VALUES ('art-67b99ed544b60141'::VARCHAR, 'job-5faa57c58de6ac5a'::VARCHAR, 'train'::VARCHAR, 1::BIGINT, 'checkpoint'::VARCHAR, 'file:///s/step-10'::VARCHAR, '{"step": 10, "state": "complete"}'::jsonb::JSONB, 'default'::VARCHAR) ON CONFLICT (job_id, kind, uri) DO UPDATE SET detail = excluded.detail;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 11::BIGINT, 'train'::VARCHAR, 'info'::VARCHAR, 'message'::VARCHAR, 'half way'::VARCHAR, '{"step": 10}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.train'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO metrics (job_id, stage, name, step, value, tokens_seen, epoch, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 'train'::VARCHAR, 'train_loss'::VARCHAR, 10::BIGINT, 2.5, 640::BIGINT, 1::BIGINT, 'default'::VARCHAR) ON CONFLICT (job_id, stage, name, step) DO UPDATE SET value = excluded.value, tokens_seen = excluded.tokens_seen, epoch = excluded.epoch, created_at = excluded.created_at;

-- rows: 1
INSERT INTO artifacts (id, job_id, stage, epoch, kind, uri, detail, project_id) VALUES ('art-b9e80f0476fea25d'::VARCHAR, 'job-5faa57c58de6ac5a'::VARCHAR, 'train'::VARCHAR, 1::BIGINT, 'checkpoint'::VARCHAR, 'file:///s/step-10'::VARCHAR, '{"step": 10, "state": "complete"}'::jsonb::JSONB, 'default'::VARCHAR) ON CONFLICT (job_id, kind, uri) DO UPDATE SET detail = excluded.detail;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 12::BIGINT, 'train'::VARCHAR, 'info'::VARCHAR, 'message'::VARCHAR, 'half way'::VARCHAR, '{"step": 10}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.train'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE attempts SET status='succeeded'::VARCHAR, finished_at=now() WHERE attempts.stage_id = 'job-5faa57c58de6ac5a.train'::VARCHAR AND attempts.epoch = 1::BIGINT;

-- rows: 1
UPDATE stages SET status='succeeded'::VARCHAR, worker=NULL::VARCHAR, lease_until=NULL::TIMESTAMP WITH TIME ZONE, result='{"uri": "file:///t", "step": 10, "tokens_seen": 640}'::jsonb::JSONB, finished_at=now() WHERE stages.id = 'job-5faa57c58de6ac5a.train'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 13::BIGINT, 'train'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'train is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='ready'::VARCHAR WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 14::BIGINT, 'evaluate'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'evaluate is ready'::VARCHAR, '{"status": "ready"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 1
INSERT INTO outbox (stage_id, queue, priority, available_at, project_id) VALUES ('job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'evaluate.cpu'::VARCHAR, 2::SMALLINT, (now() + '0:00:00'::interval), 'default'::VARCHAR) RETURNING outbox.id, outbox.available_at;

-- rows: 1
UPDATE stages SET available_at=(now() + '0:00:00'::interval), announced_at=(now() + '0:00:00'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR;

-- rows: 1
UPDATE outbox SET available_at=(now() + '0:01:00'::interval) WHERE outbox.id IN (SELECT outbox.id
FROM outbox
WHERE outbox.available_at <= now() ORDER BY outbox.priority, outbox.id
 LIMIT 100::INTEGER FOR UPDATE SKIP LOCKED) RETURNING outbox.id, outbox.queue, outbox.stage_id, outbox.priority;

-- rows: 1
DELETE FROM outbox WHERE outbox.id IN (4::BIGINT);

-- rows: 0
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'evaluate'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'evaluate.cpu'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.job_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 3
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='running'::VARCHAR, epoch=(stages.epoch + 1::BIGINT), worker='w1'::VARCHAR, lease_until=(now() + '0:00:30'::interval), started_at=coalesce(stages.started_at, now()), finished_at=NULL::TIMESTAMP WITH TIME ZONE WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR AND stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND NOT (EXISTS (SELECT maintenance.id
FROM maintenance
WHERE maintenance.draining)) RETURNING stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.evaluate'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO attempts (stage_id, epoch, worker, status, reason, reason_class, message, detail, exit_status, signal, finished_at, project_id) VALUES ('job-5faa57c58de6ac5a.evaluate'::VARCHAR, 1::BIGINT, 'w1'::VARCHAR, 'running'::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::JSONB, NULL::INTEGER, NULL::INTEGER, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING attempts.started_at;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 15::BIGINT, 'evaluate'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'evaluate is running on w1 (attempt 1)'::VARCHAR, '{"status": "running", "attempt": 1, "worker": "w1"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 4
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 4
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET lease_until=(now() + '0:00:30'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR RETURNING stages.id;

-- rows: 1
SELECT jobs.status
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 0
SELECT stages.id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR AND stages.status = 'failed'::VARCHAR
 LIMIT 1::INTEGER;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 4
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.evaluate'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE attempts SET status='succeeded'::VARCHAR, finished_at=now() WHERE attempts.stage_id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR AND attempts.epoch = 1::BIGINT;

-- rows: 1
UPDATE stages SET status='succeeded'::VARCHAR, worker=NULL::VARCHAR, lease_until=NULL::TIMESTAMP WITH TIME ZONE, result='{"uri": "file:///e", "scores": {}}'::jsonb::JSONB, finished_at=now() WHERE stages.id = 'job-5faa57c58de6ac5a.evaluate'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 16::BIGINT, 'evaluate'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'evaluate is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 4
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='ready'::VARCHAR WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 17::BIGINT, 'export'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'export is ready'::VARCHAR, '{"status": "ready"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 1
INSERT INTO outbox (stage_id, queue, priority, available_at, project_id) VALUES ('job-5faa57c58de6ac5a.export'::VARCHAR, 'export'::VARCHAR, 2::SMALLINT, (now() + '0:00:00'::interval), 'default'::VARCHAR) RETURNING outbox.id, outbox.available_at;

-- rows: 1
UPDATE stages SET available_at=(now() + '0:00:00'::interval), announced_at=(now() + '0:00:00'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR;

-- rows: 1
UPDATE outbox SET available_at=(now() + '0:01:00'::interval) WHERE outbox.id IN (SELECT outbox.id
FROM outbox
WHERE outbox.available_at <= now() ORDER BY outbox.priority, outbox.id
 LIMIT 100::INTEGER FOR UPDATE SKIP LOCKED) RETURNING outbox.id, outbox.queue, outbox.stage_id, outbox.priority;

-- rows: 1
DELETE FROM outbox WHERE outbox.id IN (5::BIGINT);

-- rows: 1
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'export'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 0
SELECT stages.priority, stages.available_at, stages.id
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.queue = 'export.cpu'::VARCHAR AND stages.available_at <= now() ORDER BY stages.priority, stages.available_at
 LIMIT 8::INTEGER;

-- rows: 1
SELECT stages.job_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 4
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET status='running'::VARCHAR, epoch=(stages.epoch + 1::BIGINT), worker='w1'::VARCHAR, lease_until=(now() + '0:00:30'::interval), started_at=coalesce(stages.started_at, now()), finished_at=NULL::TIMESTAMP WITH TIME ZONE WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR AND stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND NOT (EXISTS (SELECT maintenance.id
FROM maintenance
WHERE maintenance.draining)) RETURNING stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id;

-- rows: 0
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
INSERT INTO attempts (stage_id, epoch, worker, status, reason, reason_class, message, detail, exit_status, signal, finished_at, project_id) VALUES ('job-5faa57c58de6ac5a.export'::VARCHAR, 1::BIGINT, 'w1'::VARCHAR, 'running'::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, NULL::JSONB, NULL::INTEGER, NULL::INTEGER, NULL::TIMESTAMP WITH TIME ZONE, 'default'::VARCHAR) RETURNING attempts.started_at;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 18::BIGINT, 'export'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'export is running on w1 (attempt 1)'::VARCHAR, '{"status": "running", "attempt": 1, "worker": "w1"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 5
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 5
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE stages SET lease_until=(now() + '0:00:30'::interval) WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR RETURNING stages.id;

-- rows: 1
SELECT jobs.status
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 0
SELECT stages.id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR AND stages.status = 'failed'::VARCHAR
 LIMIT 1::INTEGER;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR FOR UPDATE;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 5
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR AND stages.epoch = 1::BIGINT AND stages.status = 'running'::VARCHAR;

-- rows: 1
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE attempts SET status='succeeded'::VARCHAR, finished_at=now() WHERE attempts.stage_id = 'job-5faa57c58de6ac5a.export'::VARCHAR AND attempts.epoch = 1::BIGINT;

-- rows: 1
UPDATE stages SET status='succeeded'::VARCHAR, worker=NULL::VARCHAR, lease_until=NULL::TIMESTAMP WITH TIME ZONE, result='{"artifacts": {}}'::jsonb::JSONB, finished_at=now() WHERE stages.id = 'job-5faa57c58de6ac5a.export'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 19::BIGINT, 'export'::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'export is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 5
SELECT stages.id, stages.job_id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id = 'job-5faa57c58de6ac5a'::VARCHAR ORDER BY stages.position;

-- rows: 5
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
UPDATE jobs SET status='succeeded'::VARCHAR, admitted_at=NULL::TIMESTAMP WITH TIME ZONE, finished_at=now() WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 1
UPDATE jobs SET last_event=(jobs.last_event + 1::BIGINT) WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR RETURNING jobs.last_event, jobs.watched_until > now() AS anon_1;

-- rows: 1
INSERT INTO events (job_id, seq, stage, level, type, message, data, project_id) VALUES ('job-5faa57c58de6ac5a'::VARCHAR, 20::BIGINT, NULL::VARCHAR, 'info'::VARCHAR, 'state'::VARCHAR, 'job is succeeded'::VARCHAR, '{"status": "succeeded"}'::jsonb::JSONB, 'default'::VARCHAR) RETURNING events.created_at;

-- rows: 0
SELECT stages.id, stages.job_id
FROM stages
WHERE stages.status = 'running'::VARCHAR AND stages.lease_until < now()
 LIMIT 100::INTEGER;

-- rows: 0
SELECT DISTINCT stages.queue
FROM stages
WHERE stages.status = 'ready'::VARCHAR AND stages.available_at <= now() AND stages.announced_at < now() - '0:00:15'::interval;

-- rows: 0
SELECT project_limits.project_id, project_limits.max_unfinished, project_limits.max_running
FROM project_limits;

-- rows: 1
SELECT jobs.id, jobs.seq, jobs.name, jobs.spec, jobs.labels, jobs.warnings, jobs.status, jobs.priority, jobs.admitted_at, jobs.reason, jobs.reason_class, jobs.message, jobs.last_event, jobs.version, jobs.watched_until, jobs.created_at, jobs.started_at, jobs.finished_at, jobs.project_id
FROM jobs
WHERE jobs.id = 'job-5faa57c58de6ac5a'::VARCHAR;

-- rows: 5
SELECT stages.job_id, stages.id, stages.name, stages.position, stages.queue, stages.priority, stages.status, stages.epoch, stages.failures, stages.override, stages.worker, stages.lease_until, stages.available_at, stages.announced_at, stages.progress, stages.result, stages.reason, stages.reason_class, stages.message, stages.started_at, stages.finished_at, stages.project_id
FROM stages
WHERE stages.job_id IN ('job-5faa57c58de6ac5a'::VARCHAR) ORDER BY stages.position;

-- rows: 5
SELECT attempts.stage_id, attempts.epoch, attempts.worker, attempts.status, attempts.reason, attempts.reason_class, attempts.message, attempts.detail, attempts.exit_status, attempts.signal, attempts.started_at, attempts.finished_at, attempts.project_id
FROM attempts
WHERE attempts.stage_id IN ('job-5faa57c58de6ac5a.prepare'::VARCHAR, 'job-5faa57c58de6ac5a.convert'::VARCHAR, 'job-5faa57c58de6ac5a.train'::VARCHAR, 'job-5faa57c58de6ac5a.evaluate'::VARCHAR, 'job-5faa57c58de6ac5a.export'::VARCHAR) ORDER BY attempts.epoch;

-- rows: 1
DELETE FROM workers WHERE workers.name = 'w1'::VARCHAR;
