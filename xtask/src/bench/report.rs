//! Shows the results: a table, JSON, a plot.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// Names and units of what is measured, in the order of [`Summary::values`].
const MEASURES: [(&str, &str); 6] = [
    ("first instruction", "ms"),
    ("whole run", "ms"),
    ("CPU time", "ms"),
    ("private memory", "MiB"),
    ("proportional memory", "MiB"),
    ("binary", "MiB"),
];

/// One contender's medians.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    /// Its name.
    pub(super) name: String,
    /// In the units of [`MEASURES`].
    pub(super) values: [f64; 6],
}

/// Lines for the terminal: values, and how often ours fits into each.
pub(super) fn table(summaries: &[Summary]) -> String {
    let mut text = format!("{:<24}", "");
    for summary in summaries {
        let _ = write!(text, "{:>22}", summary.name);
    }
    text.push('\n');
    for (index, (name, unit)) in MEASURES.iter().enumerate() {
        let _ = write!(text, "{:<24}", format!("{name}, {unit}"));
        for (position, summary) in summaries.iter().enumerate() {
            let value = summary.values[index];
            let cell = if position == 0 {
                format!("{value:.2}")
            } else {
                format!(
                    "{value:.2} ({:.1}x)",
                    ratio(value, summaries[0].values[index])
                )
            };
            let _ = write!(text, "{cell:>22}");
        }
        text.push('\n');
    }
    text
}

/// The same for programs, keys in the order of the table.
pub(super) fn json(summaries: &[Summary], runs: usize) -> String {
    let contenders: Vec<Value> = summaries
        .iter()
        .map(|summary| {
            let mut object = Map::new();
            object.insert("name".to_owned(), json!(summary.name));
            for (index, (name, unit)) in MEASURES.iter().enumerate() {
                let key = format!("{name} {unit}").to_lowercase().replace(' ', "_");
                let value = summary.values[index];
                object.insert(
                    format!("{key}_ratio"),
                    json!(round(ratio(value, summaries[0].values[index]))),
                );
                object.insert(key, json!(round(value)));
            }
            Value::Object(object)
        })
        .collect();
    format!(
        "{:#}\n",
        json!({ "benchmark": "startup", "rounds": runs, "medians": contenders })
    )
}

/// A plot: for each measure, one bar per contender, as long as its share of the largest.
pub(super) fn svg(summaries: &[Summary]) -> String {
    const BAR: usize = 18;
    const WIDTH: f64 = 420.0;
    const COLOURS: [&str; 4] = ["#1f77b4", "#ff7f0e", "#7f7f7f", "#2ca02c"];
    let group = BAR * summaries.len() + 34;
    let height = group * MEASURES.len() + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (measure, unit)) in MEASURES.iter().enumerate() {
        let top = index * group + 22;
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{top}\" font-weight=\"bold\">{measure}, {unit}</text>"
        );
        let largest = summaries
            .iter()
            .map(|summary| summary.values[index])
            .fold(0.0, f64::max);
        for (position, summary) in summaries.iter().enumerate() {
            let value = summary.values[index];
            let (y, length) = (top + 6 + position * BAR, ratio(value, largest) * WIDTH);
            let colour = COLOURS[position % COLOURS.len()];
            let name = escape(&summary.name);
            let base = y + BAR - 6;
            let _ = writeln!(
                svg,
                "<text x=\"140\" y=\"{base}\" text-anchor=\"end\">{name}</text>\
                 <rect x=\"150\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{base}\">{value:.2}</text>",
                BAR - 4,
                156.0 + length
            );
        }
    }
    svg + "</svg>\n"
}

/// 0 where there is nothing to compare with.
fn ratio(value: f64, base: f64) -> f64 {
    if base > 0.0 { value / base } else { 0.0 }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summaries() -> Vec<Summary> {
        let summary = |name: &str, first| Summary {
            name: name.to_owned(),
            values: [first, 4.0, 1.0, 1.5, 2.0, 3.0],
        };
        vec![summary("ours", 2.0), summary("a <peer>", 5.0)]
    }

    #[test]
    fn the_table_says_how_many_times_ours_a_peer_takes() {
        let text = table(&summaries());
        let line = text
            .lines()
            .find(|line| line.starts_with("first instruction"))
            .unwrap();
        assert!(
            line.contains("2.00") && line.ends_with("5.00 (2.5x)"),
            "{line}"
        );
    }

    #[test]
    fn json_has_values_and_ratios() {
        let value: Value = serde_json::from_str(&json(&summaries(), 7)).unwrap();
        assert_eq!(value["rounds"], 7);
        assert_eq!(value["medians"][1]["first_instruction_ms"], 5.0);
        assert_eq!(value["medians"][1]["first_instruction_ms_ratio"], 2.5);
    }

    #[test]
    fn the_plots_longest_bar_is_the_slowest_and_names_are_escaped() {
        let svg = svg(&summaries());
        assert!(svg.contains("width=\"420.0\"") && svg.contains("width=\"168.0\""));
        assert!(svg.contains("a &lt;peer&gt;") && !svg.contains("<peer>"));
    }
}
