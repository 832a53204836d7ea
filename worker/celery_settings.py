"""Celery's settings of a worker, read from the environment when Celery first asks for them."""

from service.doorbell import celery_settings
from service.settings import settings

broker_url = settings().broker_url.get_secret_value()
_common = celery_settings()
accept_content = _common["accept_content"]
task_serializer = _common["task_serializer"]
task_ignore_result = _common["task_ignore_result"]
result_backend = _common["result_backend"]
task_default_queue = _common["task_default_queue"]
worker_send_task_events = _common["worker_send_task_events"]
broker_transport_options = _common["broker_transport_options"]

# One process, one unit at a time, in a thread: the process that gets the signals is the one that has the engine.
worker_pool = "threads"
worker_concurrency = 1
# A message is a doorbell, answered once. What becomes of the unit is in the database.
task_acks_late = False
worker_prefetch_multiplier = 1
# Losing the broker is no reason to stop a unit, nor to give up.
worker_cancel_long_running_tasks_on_connection_loss = False
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# Whoever reaches the broker could otherwise command the worker.
worker_enable_remote_control = False
worker_hijack_root_logger = False
