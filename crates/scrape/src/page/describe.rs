//! What a page says of its families.

use weir_series::{
    Append, Histogram, Metadata,
    exposition::{
        Format, proto,
        text::{Comment, Item, Lines},
    },
};

/// Tells the store what the families of a page are.
pub(super) fn describe(page: &[u8], format: Format, store: &dyn Append) {
    struct Families<'a>(&'a dyn Append);
    impl proto::Sink for Families<'_> {
        fn family(&mut self, family: &proto::Family<'_>) {
            let metadata = Metadata {
                kind: family.kind.to_owned(),
                help: family.help.to_owned(),
                unit: family.unit.to_owned(),
            };
            self.0.describe(family.name, &metadata);
        }
        fn sample(&mut self, _: &proto::Series<'_>, _: f64, _: Option<i64>) {}
        fn histogram(&mut self, _: &proto::Series<'_>, _: Histogram, _: Option<i64>) {}
    }
    let mut lines = match (format, std::str::from_utf8(page)) {
        (Format::Proto, _) => {
            // The page was read once already.
            let _ = proto::read(page, proto::Options::default(), &mut Families(store));
            return;
        }
        (Format::OpenMetrics, Ok(page)) => Lines::open_metrics(page),
        (Format::Text, Ok(page)) => Lines::text(page),
        (_, Err(_)) => return,
    };
    let mut families: Vec<(&str, Metadata)> = Vec::new();
    while let Ok(Some(item)) = lines.next(None) {
        let Item::Comment(Comment { what, family, said, .. }) = item else {
            continue;
        };
        let family = family.trim_matches('"');
        if families.last().is_none_or(|(last, _)| *last != family) {
            let kind = "unknown".to_owned();
            families.push((
                family,
                Metadata {
                    kind,
                    ..Metadata::default()
                },
            ));
        }
        let Some((_, metadata)) = families.last_mut() else {
            continue;
        };
        match what {
            "TYPE" if said != "untyped" => metadata.kind = said.to_owned(),
            "HELP" => metadata.help = said.replace("\\n", "\n").replace("\\\\", "\\"),
            "UNIT" => metadata.unit = said.to_owned(),
            _ => {}
        }
    }
    for (family, metadata) in &families {
        store.describe(family, metadata);
    }
}
