//! The sums of what several threads counted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType};

/// Adds up metrics with the same name and the same values of labels, whichever registry they come from. In the order of a registry: by names,
/// then by the values of labels.
pub(super) fn sum(families: impl IntoIterator<Item = MetricFamily>) -> Vec<MetricFamily> {
    let mut sums = BTreeMap::new();
    for mut family in families {
        let (name, kind, metrics) = (family.name().to_owned(), family.get_field_type(), family.take_metric());
        let (_, sums) = sums.entry(name).or_insert_with(|| (family, BTreeMap::new()));
        for metric in metrics {
            match sums.entry(values(&metric)) {
                Entry::Vacant(first) => {
                    first.insert(metric);
                }
                Entry::Occupied(mut sum) => add(kind, sum.get_mut(), &metric),
            }
        }
    }
    let whole = |(mut family, metrics): (MetricFamily, BTreeMap<_, Metric>)| {
        family.set_metric(metrics.into_values().collect());
        family
    };
    sums.into_values().map(whole).collect()
}

fn values(metric: &Metric) -> Vec<String> {
    metric
        .get_label()
        .iter()
        .map(|label| label.value().to_owned())
        .collect()
}

fn add(kind: MetricType, sum: &mut Metric, more: &Metric) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + more.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::GAUGE => {
            let mut gauge = Gauge::default();
            gauge.set_value(sum.get_gauge().get_value() + more.get_gauge().get_value());
            sum.set_gauge(gauge);
        }
        MetricType::HISTOGRAM => sum.set_histogram(both(sum.get_histogram(), more.get_histogram())),
        // They can't be added up, and there are none.
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

/// Two histograms with the same buckets.
fn both(one: &Histogram, other: &Histogram) -> Histogram {
    let bucket = |(one, other): (&Bucket, &Bucket)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(one.upper_bound());
        bucket.set_cumulative_count(one.cumulative_count() + other.cumulative_count());
        bucket
    };
    let mut both = Histogram::default();
    both.set_sample_count(one.get_sample_count() + other.get_sample_count());
    both.set_sample_sum(one.get_sample_sum() + other.get_sample_sum());
    both.set_bucket(one.get_bucket().iter().zip(other.get_bucket()).map(bucket).collect());
    both
}
