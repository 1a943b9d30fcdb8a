//! Measuring, ranking and looking at encoders, as a user asks for it.

use std::fs;

use serde_json::Value;

use crate::program::{Answer, Desk};

const OVERLAY: &str = "overlay={type: offset, encoder: {type: hog}, scale: 3}";
const PICTURES: [&str; 8] = ["--images", "shapes", "--num", "6", "--image-size", "32", "--grid", "8"];

fn json(desk: &Desk, path: &str) -> Value {
    serde_json::from_slice(&fs::read(desk.path(path)).unwrap()).unwrap()
}

#[test]
fn an_encoder_with_an_overlay_ranks_below_the_plain_one() {
    let desk = Desk::new();
    let answer = desk.run(&[&["rank", "--encoder", OVERLAY, "--encoder", "hog"], &PICTURES[..]].concat());
    answer.assert_done();
    let result = json(&desk, "rank/rank.json");
    let name = |place: usize| result["ranked"][place]["measured"]["encoder"].as_str().unwrap().to_string();
    assert_eq!([name(0), name(1)], ["hog", "overlay"]);
    assert_eq!(result["ranked"][0]["ahead_of_next"], 1.0);
    assert!(answer.out.contains("lds decides: r = -0.85 with FID"), "{}", answer.out);
    assert!(fs::read(desk.path("rank/rank.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(fs::read_to_string(desk.path("rank/rank.csv")).unwrap().lines().count(), 3);
}

#[test]
fn spatial_normalization_takes_an_overlay_away() {
    let desk = Desk::new();
    let answer = |after: &str| {
        let answer =
            desk.run(&[&["viz", "--encoder", OVERLAY, "--encoder", "hog", "--after", after], &PICTURES[..]].concat());
        answer.assert_done();
        answer
    };
    let off_object = |answer: &Answer, encoder: &str| {
        let line = answer.out.lines().find(|line| line.split_whitespace().nth(1) == Some(encoder)).unwrap();
        let numbers: Vec<f64> = line.split_whitespace().skip(2).map(|number| number.parse().unwrap()).collect();
        [numbers[0], numbers[1]]
    };
    let whole = answer("{type: spatial, gamma: 1}");
    let ([before, after], [plain, plain_after]) = (off_object(&whole, "overlay"), off_object(&whole, "hog"));
    assert!(before > 0.9 && before > plain + 0.2, "{}", whole.out);
    assert!((after - plain_after).abs() < 0.01, "{}", whole.out); // the whole mean, and with it the vector
    let answer = answer("spatial");
    let part = off_object(&answer, "overlay")[1];
    assert!(after < part && part < before - 0.1, "{}", answer.out);
    assert!(answer.out.contains("(its mask)"), "{}", answer.out);
    assert!(desk.path("viz/0.png").is_file());
    let array = fs::read(desk.path("viz/maps/0-overlay-before.npy")).unwrap();
    assert!(array.starts_with(b"\x93NUMPY") && array.len().is_multiple_of(64), "{}", array.len());
}

#[test]
fn metrics_of_a_zip_go_to_files_that_correlate_reads() {
    let desk = Desk::new();
    desk.write("pictures.zip", crate::pictures::picture_zip());
    let encoders =
        ["--encoder", "hog", "--encoder", OVERLAY, "--encoder", "weak={type: offset, encoder: {type: hog}, scale: 1}"];
    let files = ["--images", "pictures.zip", "--image-size", "32", "--csv", "m.csv", "--json", "m.json"];
    let answer = desk.run(&[&["metrics"], &encoders[..], &files[..]].concat());
    answer.assert_done();
    assert!(answer.out.contains("2 pictures without object masks"), "{}", answer.out);
    let result = json(&desk, "m.json");
    assert_eq!(result["ids"][1], "b/y.png");
    assert_eq!(result["encoders"][0]["metrics"]["lds"]["values"].as_array().unwrap().len(), 2);
    desk.write("fid.csv", "encoder,FID\nhog,10\noverlay,30\nweak,20\n");
    for file in ["m.csv", "m.json"] {
        let answer = desk.run(&["correlate", file, "fid.csv", "--x", "lds,rmsc"]);
        answer.assert_done();
        assert!(answer.out.contains("lds") && answer.out.contains("-0.852"), "{}", answer.out);
    }
    assert!(desk.path("correlate/correlate.png").is_file());
}

#[test]
fn masks_belong_to_pictures_by_name_and_unfit_ones_are_left_out() {
    let desk = Desk::new();
    let save = |name: &str, share: u32| {
        let mask = image::GrayImage::from_fn(64, 64, |x, _| image::Luma([if x < share { 255 } else { 0 }]));
        fs::create_dir_all(desk.path(name).parent().unwrap()).unwrap();
        mask.save(desk.path(name)).unwrap();
        let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 3, (x * y) as u8]));
        picture.save(desk.path(&name.replace("masks", "pictures"))).unwrap();
    };
    fs::create_dir_all(desk.path("pictures")).unwrap();
    for (name, share) in [("masks/a.png", 32), ("masks/b.png", 4), ("masks/c.png", 40)] {
        save(name, share);
    }
    let args = ["metrics", "--encoder", "hog", "--image-size", "64", "--images", "pictures", "--masks", "masks"];
    let answer = desk.run(&args);
    answer.assert_done();
    assert!(
        answer.out.contains("2 pictures with object masks; 1 left out") && answer.out.contains("srss"),
        "{}",
        answer.out
    );
    fs::create_dir(desk.path("other")).unwrap();
    fs::rename(desk.path("masks/a.png"), desk.path("other/z.png")).unwrap();
    desk.run(&[&args[..8], &["other"]].concat()).assert_refused(&[
        "no mask has the name of a picture",
        "z.png",
        "a.png",
    ]);
}

#[test]
fn a_run_is_watched_while_it_trains_and_looked_into_after() {
    let desk = Desk::new();
    let sets = [
        "train.steps=3",
        "train.global_batch_size=4",
        "train.micro_batch_size=4",
        "train.schedule.warmup_steps=0",
        "backbone.depth=2",
        "alignment.0.encoder_depth=1",
        "sample.num_preview=0",
        "log.every=1",
        "log.classifier=false",
        "log.spatial={every: 2, taps: [2, 1], num_images: 6, metrics: [{type: lds}, {type: srss, far: 3}]}",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    desk.run(&[&["run", "recipes/sit-irepa.yaml", "--run-dir", "a"], &sets[..]].concat()).assert_done();
    let text = fs::read_to_string(desk.path("a/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let watched: Vec<&Value> = lines.iter().filter(|line| !line["spatial/lds_block1"].is_null()).collect();
    assert_eq!(watched.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    for tag in ["lds_block2", "srss_block1", "lds_encoder", "lds_target", "srss_target"] {
        assert!(watched.iter().all(|line| line[&format!("spatial/{tag}")].is_f64()), "{tag}: {text}");
    }
    let events =
        || fs::read_dir(desk.path("a")).unwrap().filter(|f| is_event(&f.as_ref().unwrap().file_name())).count();
    let before = events();
    let answer = desk.run(&["viz", "--run", "a", "--images", "shapes", "--num", "2", "--tap", "1", "--tap", "2"]);
    answer.assert_done();
    for row in ["target hog", "block 1 through conv", "a block 1", "a block 2"] {
        assert!(answer.out.contains(row), "{row}: {}", answer.out);
    }
    assert_eq!(events(), before + 1);
    desk.run(&["viz", "--run", "a", "--images", "shapes", "--tap", "3"]).assert_refused(&["--tap 3", "blocks 1 to 2"]);
}

fn is_event(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().contains("tfevents")
}

#[test]
fn probes_tell_an_encoder_that_sees_shapes_from_chance() {
    let desk = Desk::new();
    let data = "{type: shapes, num_examples: 480}";
    let args = ["probe", "--encoder", "hog", "--train", data, "--image-size", "32", "--grid", "4", "--epochs", "20"];
    let answer = desk.run(&[&args[..], &["--csv", "p.csv"]].concat());
    answer.assert_done();
    let text = fs::read_to_string(desk.path("p.csv")).unwrap();
    let cells: Vec<&str> = text.lines().nth(1).unwrap().split(',').collect();
    let (knn, linear): (f64, f64) = (cells[1].parse().unwrap(), cells[3].parse().unwrap());
    // 16 classes; HOG sees shapes and no colors, so that a quarter is what can be had of a perfect shape.
    assert!(knn > 9.0 && linear > 9.0 && cells[2] == "-", "{text}");
}

#[test]
fn mistakes_are_answered_with_what_was_typed_and_what_is_known() {
    let desk = Desk::new();
    let with = |args: &[&'static str]| desk.run(&[args, &PICTURES[..]].concat());
    with(&["metrics"]).assert_refused(&["at least one encoder", "--encoder hog"]);
    with(&["metrics", "--encoder", "hgo"]).assert_refused(&["--encoder hgo", "did you mean `hog`?"]);
    with(&["metrics", "--encoder", "hog", "--metric", "ldz"]).assert_refused(&["--metric ldz", "did you mean `lds`?"]);
    with(&["metrics", "--encoder", "hog", "--normalizer", "spatail"]).assert_refused(&["did you mean `spatial`?"]);
    with(&["rank", "--encoder", "hog", "--by", "ldss"]).assert_refused(&["--by ldss", "did you mean `lds`?"]);
    with(&["viz", "--encoder", "hog", "--points", "0.5"]).assert_refused(&["--points", "`0.5`", "`y,x`"]);
    with(&["viz", "--run", "recipes"]).assert_refused(&["`recipes` is not a run folder"]);
    let absent = desk.run(&["metrics", "--encoder", "hog", "--images", "nowhere"]);
    absent.assert_refused(&["--images", "`nowhere`"]);
    desk.write("pictures.zip", crate::pictures::picture_zip());
    let unmasked = ["metrics", "--encoder", "hog", "--images", "pictures.zip", "--metric", "srss"];
    desk.run(&unmasked).assert_refused(&["--metric srss", "--masks", "--images shapes"]);
    desk.write("few.csv", "encoder,lds,fid\na,1,2\nb,2,3\n");
    desk.run(&["correlate", "few.csv"]).assert_refused(&["three encoders"]);
    desk.run(&["correlate", "few.csv", "--x", "ldss"]).assert_refused(&["--x ldss", "did you mean `lds`?"]);
}
