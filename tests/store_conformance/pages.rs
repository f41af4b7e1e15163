//! Pages of listings: every name once, in order, folded or not, however short they are.

use super::*;

/// All pages of a listing, one after the other. Each but the last must be of that length.
async fn pages(store: &dyn ObjectStore, container: &str, select: Select<'_>) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    loop {
        let before = pages.last().and_then(|page| page.next.as_deref());
        let after = before.or(select.after);
        let page = store.page(container, Select { after, ..select }).await;
        let page = page.unwrap();
        let lines = lines(&page);
        assert!(lines.is_sorted_by(|one, next| one < next), "{page:?}");
        assert!(page.entries.is_sorted_by(|one, next| one.name < next.name));
        assert!(page.folders.is_sorted_by(|one, next| one < next));
        assert!(
            lines
                .iter()
                .all(|line| after.is_none_or(|after| line.as_str() > after))
        );
        if let Some(most) = select.most {
            assert!(lines.len() <= most, "{page:?}");
        }
        if let Some(next) = &page.next {
            assert_eq!(Some(next), lines.last());
            assert!(
                select.most.is_none_or(|most| lines.len() == most),
                "{page:?}"
            );
        }
        let is_last = page.next.is_none();
        pages.push(page);
        if is_last {
            return pages;
        }
    }
}

fn lines(page: &Page) -> Vec<String> {
    let entries = page.entries.iter().map(|entry| &entry.name);
    let mut lines: Vec<String> = entries.chain(&page.folders).cloned().collect();
    lines.sort_unstable();
    lines
}

/// The lines of a listing as they must be, worked out in another way.
fn expected_lines(all: &[String], select: Select<'_>) -> (Vec<String>, Vec<String>) {
    let (mut entries, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for name in all {
        let Some(behind) = name.strip_prefix(select.prefix) else {
            continue;
        };
        let split = select
            .delimiter
            .and_then(|by| Some((by, behind.split_once(by)?.0)));
        let (set, line) = match split {
            Some((by, head)) => (&mut folders, format!("{}{head}{by}", select.prefix)),
            None => (&mut entries, name.clone()),
        };
        if select.after.is_none_or(|after| line.as_str() > after) {
            set.insert(line);
        }
    }
    (entries.into_iter().collect(), folders.into_iter().collect())
}

async fn check_pages(store: &dyn ObjectStore, all: &[String], select: Select<'_>) {
    let pages = pages(store, "c", select).await;
    let (entries, folders) = expected_lines(all, select);
    let told = || pages.iter().flat_map(|page| &page.entries);
    let named: Vec<String> = told().map(|entry| entry.name.clone()).collect();
    assert_eq!(named, entries, "{select:?}");
    let folded: Vec<String> = pages.iter().flat_map(|page| page.folders.clone()).collect();
    assert_eq!(folded, folders, "{select:?}");
    // The versions are those of the listing of all.
    let listed = store.list("c", select.prefix).await.unwrap();
    assert!(told().all(|entry| listed.contains(entry)), "{select:?}");
    let count = entries.len() + folders.len();
    if let Some(most) = select.most {
        // A page that is full may be the last or not: that only the next one tells.
        let least = count.div_ceil(most).max(1);
        assert!(
            (least..=count / most + 1).contains(&pages.len()),
            "{select:?}"
        );
    }
}

pub async fn gives_pages(store: &dyn ObjectStore) {
    let mut all: Vec<String> = ODD.into_iter().map(str::to_owned).collect();
    all.extend((0..7).map(|number| format!("volume_{number}")));
    for name in &all {
        put(store, "c", name, name.as_bytes().to_vec()).await;
    }
    all.sort_unstable();
    for prefix in ["", "volume_", "100%", "日", "e", "none"] {
        for most in [None, Some(1), Some(2), Some(7), Some(100)] {
            let select = Select {
                prefix,
                most,
                ..Select::default()
            };
            check_pages(store, &all, select).await;
        }
    }
    // Behind every name, and behind names that are not there.
    let more = ["", "volume_3x", "\u{10ffff}", "vol", "日次"].map(str::to_owned);
    for after in all.iter().chain(&more) {
        for prefix in ["", "volume_"] {
            let select = Select {
                prefix,
                after: Some(after),
                most: Some(20),
                ..Select::default()
            };
            check_pages(store, &all, select).await;
        }
    }
}

pub async fn gives_pages_that_are_folded(store: &dyn ObjectStore) {
    let mut all: Vec<String> = Vec::new();
    for volume in ["a", "b b", "ж", "a-0-0"] {
        for time in ["1", "2"] {
            let backup = format!("volume_{volume}_{time}_backup");
            all.extend([1, 2, 3].map(|number| format!("{backup}-{number:05}")));
            all.extend(["_metadata", "_sha256file"].map(|end| format!("{backup}{end}")));
        }
    }
    all.extend(["other", "x-0", "-0"].map(str::to_owned));
    for name in &all {
        put(store, "c", name, name.as_bytes().to_vec()).await;
    }
    all.sort_unstable();
    for delimiter in ["_", "-0", "-00", "ж", " ", "_backup-", "none"] {
        for prefix in [
            "",
            "volume_",
            "volume_a",
            "volume_ж_",
            "volume_b b_1_backup",
            "-0",
        ] {
            for most in [None, Some(1), Some(3), Some(100)] {
                let select = Select {
                    prefix,
                    delimiter: Some(delimiter),
                    most,
                    ..Select::default()
                };
                check_pages(store, &all, select).await;
            }
        }
        for after in [
            "volume_a_1_backup-0",
            "volume_a_1_backup-00002",
            "volume_b",
            "x-0",
        ] {
            let select = Select {
                prefix: "",
                delimiter: Some(delimiter),
                after: Some(after),
                most: None,
            };
            let page = store.page("c", select).await.unwrap();
            assert_eq!(page.next, None);
            let (entries, folders) = expected_lines(&all, select);
            let named: Vec<String> = page.entries.into_iter().map(|entry| entry.name).collect();
            assert_eq!(named, entries, "{select:?}");
            // One that holds names on both sides may be there or not.
            let on_both = |folder: &String| {
                let mut within = all.iter().filter(|name| name.starts_with(folder.as_str()));
                folder.as_str() <= after && within.any(|name| name.as_str() > after)
            };
            let mut folded = page.folders;
            folded.retain(|folder| !on_both(folder));
            assert_eq!(folded, folders, "{select:?}");
        }
    }
}

pub async fn gives_no_page_of_nothing(store: &dyn ObjectStore) {
    put(store, "c", "o", b"x".to_vec()).await;
    let select = Select {
        delimiter: Some("-0"),
        most: Some(3),
        ..Select::default()
    };
    assert_eq!(store.page("none", select).await.unwrap(), Page::default());
    let select = Select {
        prefix: "x",
        ..select
    };
    assert_eq!(store.page("c", select).await.unwrap(), Page::default());
}
