//! `system.metrics`: every count as OpenMetrics text.

use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::health::Health;
use alloc::string::String;
use core::fmt::Write;
use datum_store::device::{BLOCK_SIZE, BlockDevice};
use datum_store::{Counters, PoolStatus};
use serde_json::{Value, json};

/// OpenMetrics text as it grows. Writing to a `String` cannot fail, so results are not looked at.
#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let _ =
            writeln!(self.0, "# TYPE datum_{name} gauge\n# HELP datum_{name} {help}\ndatum_{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let _ = writeln!(
            self.0,
            "# TYPE datum_{name} counter\n# HELP datum_{name} {help}\ndatum_{name}_total {value}"
        );
    }

    fn pool(&mut self, status: &PoolStatus) {
        self.gauge("pool_size_bytes", "Bytes the pool can use in all.", status.total_bytes);
        self.gauge("pool_allocated_bytes", "Bytes in use.", status.allocated_bytes);
        self.gauge("pool_available_bytes", "Bytes that writes can still take.", status.available_bytes);
        self.gauge("pool_freeing_bytes", "Bytes that a coming commit makes usable.", status.freeing_bytes);
        self.gauge(
            "pool_releases_pending",
            "Versions whose space is being returned.",
            status.releases_pending,
        );
        self.gauge(
            "pool_read_only",
            "1 where the pool takes no writes.",
            u64::from(status.read_only.is_some()),
        );
        self.gauge(
            "pool_damage_read_errors",
            "Reads that met a wrong block, and that no scrub has disproved.",
            status.damage.read_errors,
        );
    }

    /// What inspections of this run found; nothing before the first.
    fn health(&mut self, health: &Health) {
        if let Some(check) = &*health.check.borrow() {
            self.gauge("pool_check_errors", "Errors that the last check of this run found.", check.errors);
        }
        if let Some(scrub) = &*health.scrub.borrow() {
            self.gauge("pool_scrub_errors", "Errors that the last scrub of this run found.", scrub.errors);
        }
    }

    fn counters(&mut self, counters: &Counters) {
        let rows = [
            ("node_reads", "Metadata blocks read from devices.", counters.node_reads),
            ("node_hits", "Metadata lookups answered from memory.", counters.node_hits),
            ("node_writes", "Metadata blocks written by commits.", counters.node_writes),
            ("data_blocks_read", "Data blocks read.", counters.data_blocks_read),
            ("data_blocks_written", "Data blocks written.", counters.data_blocks_written),
            ("device_reads", "Device read requests.", counters.device_reads),
            ("device_writes", "Device write requests.", counters.device_writes),
            ("device_blocks_read", "Blocks that device reads asked for.", counters.device_blocks_read),
            ("device_blocks_written", "Blocks that device writes carried.", counters.device_blocks_written),
            ("device_flushes", "Device flushes.", counters.device_flushes),
            ("device_discards", "Device discards.", counters.device_discards),
            ("log_records", "Intent-log records written.", counters.log_records),
            ("commits", "Commits made durable.", counters.commits),
            ("blocks_released", "Blocks freed by releases.", counters.blocks_released),
            ("open_reads", "Device reads it took to open the pool.", counters.open_reads),
            ("replayed_records", "Records replayed at opening.", counters.replayed_records),
            ("checksum_errors", "Checksum mismatches found.", counters.checksum_errors),
        ];
        for (name, help, value) in rows {
            self.counter(name, help, value);
        }
    }
}

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) fn system_metrics(&self) -> Value {
        let mut metrics = Metrics::default();
        let memory = self.environment.memory();
        metrics.gauge("memory_heap_bytes", "Bytes the heap has.", memory.heap_bytes);
        metrics.gauge("memory_used_bytes", "Bytes allocated.", memory.used_bytes);
        metrics.gauge("memory_high_water_bytes", "The most ever allocated.", memory.high_water_bytes);
        metrics.gauge("sessions", "Connected clients.", self.sessions.count() as u64);
        metrics.counter(
            "nbd_sessions_without_payload_len",
            "NBD sessions whose client left PAYLOAD_LEN out of extended WRITEs.",
            self.sessions.omitted_payload_len(),
        );
        let payloads = (self.buffers.in_use() * BLOCK_SIZE) as u64;
        metrics.gauge(
            "payload_bytes",
            "Bytes of payloads under way, of those that sessions share.",
            payloads,
        );
        metrics.gauge("jobs_active", "Jobs that run or wait.", self.jobs.active() as u64);
        metrics.gauge(
            "greeting_nanoseconds",
            "From the machine's start until the first control client was greeted.",
            self.greeted.get(),
        );
        metrics.gauge(
            "open_nanoseconds",
            "What opening the pool took, without the wait for whoever may have had it open.",
            self.opening.get(),
        );
        if let Some(Ok(pool)) = self.pool_now() {
            metrics.pool(&pool.status());
            metrics.health(&self.health);
            metrics.counters(&pool.counters());
        }
        metrics.0.push_str("# EOF\n");
        json!({ "text": metrics.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn counters_end_in_total_and_gauges_do_not() {
        let mut metrics = Metrics::default();
        metrics.gauge("a_bytes", "A.", 1);
        metrics.counter("b", "B.", 2);
        assert_eq!(
            metrics.0,
            "# TYPE datum_a_bytes gauge\n# HELP datum_a_bytes A.\ndatum_a_bytes 1\n\
             # TYPE datum_b counter\n# HELP datum_b B.\ndatum_b_total 2\n"
        );
    }
}
