//! Every pair of concurrent changes has one outcome, whoever comes first and whatever the clocks say. These are the rows
//! of the table in `mountfs/SEMANTICS.md`.

use syncmount_tests::follow::{Meanwhile, follow};
use syncmount_tests::pairs::{keeps_all, keeps_all_watched, play, play_watched};

/// One pair: what was there before, what X does, what Y does, what both find afterwards.
macro_rules! pairs {
    ($($name:ident: $before:literal, $x:literal, $y:literal => $expected:literal;)*) => {
        $(#[test]
        fn $name() {
            play($before, $x, $y, $expected);
        })*

        /// The same with one or both of the devices watching a plain folder.
        mod watched {
            $(#[test]
            fn $name() {
                let if_x_watches = super::as_watched(stringify!($name), $expected);
                super::play_watched($before, $x, $y, $expected, if_x_watches);
            })*
        }
    };
}

/// Where X ends otherwise if it watches: a new file that took the name of a known one is a new version of that, because
/// so programs save.
const AS_WATCHED: [(&str, &str); 3] =
    [("replace_rename", "g=x"), ("replace_attributes", "f=x [600]"), ("replace_owner", "f=x (1)")];

fn as_watched(name: &str, expected: &'static str) -> &'static str {
    AS_WATCHED.iter().find(|(other, _)| *other == name).map_or(expected, |(_, watched)| watched)
}

pairs! {
    // Create and create.
    create_create: "", "put f.txt x", "put f.txt y" => "f.txt={new}; f (conflict {old}).txt={old}";
    create_create_equal: "", "put f z", "put f z" => "f=z";
    mkdir_mkdir: "", "mkdir d; put d/x x", "mkdir d; put d/y y" => "d/; d/x=x; d/y=y";
    mkdir_mkdir_same_entry: "", "mkdir d; put d/f x", "mkdir d; put d/f y" => "d/; d/f={new}; d/f (conflict {old})={old}";
    mkdir_mkdir_equal_trees: "", "mkdir d; mkdir d/e; put d/e/f z; ln d/l t", "mkdir d; mkdir d/e; put d/e/f z; ln d/l t"
        => "d/; d/e/; d/e/f=z; d/l->t";
    mkdir_create: "", "mkdir n; put n/i x", "put n y" => "n/; n/i=x; n (conflict y)=y";
    mkdir_symlink: "", "mkdir n; put n/i x", "ln n t" => "n/; n/i=x; n (conflict y)->t";
    symlink_symlink: "", "ln l x", "ln l y" => "l->{new}; l (conflict {old})->{old}";
    symlink_symlink_equal: "", "ln l t", "ln l t" => "l->t";
    case_clash: "", "put Report x", "put report y" => "Report=x; report=y";
    unicode_form_clash: "", "put caf\u{e9} x", "put cafe\u{301} y" => "caf\u{e9}=x; cafe\u{301}=y";

    // Edit and edit.
    edit_edit: "put f.txt 0", "put f.txt x", "put f.txt y" => "f.txt={new}; f (conflict {old}).txt={old}";
    edit_edit_equal: "put f 0", "put f z", "put f z" => "f=z";
    edit_edit_twice: "put f 0", "put f z; put f x", "put f z; put f y" => "f={new}; f (conflict {old})={old}";

    // Edit and another change of the same file.
    edit_remove: "put f 0", "put f x", "rm f" => "f=x";
    edit_rename: "put f 0", "put f x", "mv f g" => "g=x";
    edit_rename_edit: "put f 0", "put f x", "mv f g; put g y" => "g={new}; g (conflict {old})={old}";
    edit_move: "put f 0; mkdir d", "put f x", "mv f d/f" => "d/; d/f=x";
    edit_attributes: "put f 0", "put f x", "chmod f 600" => "f=x [600]";
    edit_swap: "put a 0; put b 1", "put a x", "swap a b" => "a=1; b=x";
    edit_recreate: "put f 0", "put f x", "rm f; put f y" => "f={new}; f (conflict {old})={old}";

    // Removes.
    remove_remove: "put f 0; mkdir d; put d/f 1", "rm f; rm d", "rm f; rm d" => "";
    remove_rename: "put f 0", "rm f", "mv f g" => "";
    remove_attributes: "put f 0", "rm f", "chmod f 600" => "";
    remove_recreate: "put f 0", "rm f", "rm f; put f y" => "f=y";
    recreate_recreate: "put f 0", "rm f; put f x", "rm f; put f y" => "f={new}; f (conflict {old})={old}";
    remove_directory_new_child: "mkdir d; put d/old 0", "rm d", "put d/new y" => "d/; d/new=y";
    remove_directory_deep_new_child: "mkdir d; mkdir d/e; put d/e/old 0", "rm d", "put d/e/new y" => "d/; d/e/; d/e/new=y";
    remove_directory_edit: "mkdir d; put d/f 0; put d/g 1", "rm d", "put d/f y" => "d/; d/f=y";
    remove_directory_moved_in: "mkdir d; put f 0", "rm d", "mv f d/f" => "d/; d/f=0";
    remove_directory_moved_out: "mkdir d; put d/f 0", "rm d", "mv d/f f" => "";
    remove_directory_moved_out_and_edited: "mkdir d; put d/f 0", "rm d", "mv d/f f; put f y" => "f=y";
    remove_directory_renamed: "mkdir d; put d/f 0", "rm d", "mv d e" => "";
    remove_directory_renamed_new_child: "mkdir d; put d/f 0", "rm d", "mv d e; put e/new y" => "e/; e/new=y";

    // Moves.
    rename_rename: "put f 0", "mv f fx", "mv f fy" => "f{first}=0";
    rename_rename_equal: "put f 0", "mv f g", "mv f g" => "g=0";
    rename_rename_one_name: "put a 0; put b 1", "mv a c", "mv b c" => "c=0; c (conflict y)=1 | c=1; c (conflict x)=0";
    rename_create: "put f 0", "mv f g", "put g y" => "g=y; g (conflict x)=0";
    rename_attributes: "put f 0", "mv f g", "chmod f 600" => "g=0 [600]";
    move_move: "put f 0; mkdir a; mkdir b", "mv f a/f", "mv f b/f" => "a/; b/; a/f=0 | a/; b/; b/f=0";
    move_directory_edit: "mkdir d; put d/f 0", "mv d e", "put d/f y" => "e/; e/f=y";
    move_directory_new_child: "mkdir d; put d/f 0", "mv d e", "put d/new y" => "e/; e/f=0; e/new=y";
    move_directory_remove_child: "mkdir d; put d/f 0; put d/g 1", "mv d e", "rm d/f" => "e/; e/g=1";
    move_into_moved: "mkdir d; put f 0", "mv f d/f", "mv d e" => "e/; e/f=0";
    move_cycle: "mkdir a; mkdir b; put a/f 0; put b/g 1", "mv a b/a", "mv b a/b"
        => "b/; b/a/; b/a/f=0; b/g=1 | a/; a/b/; a/f=0; a/b/g=1";
    move_cycle_of_three: "mkdir a; mkdir b; mkdir c", "mv a b/a; mv c b/a/c", "mv b c/b"
        => "b/; b/a/; b/a/c/ | c/; c/b/; c/b/a/";
    move_directories_to_one_name: "mkdir a; put a/f 0; mkdir b; put b/g 1", "mv a c", "mv b c" => "c/; c/f=0; c/g=1";
    move_directory_create_directory: "mkdir a; put a/f 0", "mv a b", "mkdir b; put b/g y" => "b/; b/f=0; b/g=y";

    // Replacing by rename, the way editors save.
    replace_edit: "put f 0", "put t x; mv t f", "put f y" => "f={new}; f (conflict {old})={old}";
    replace_replace: "put f 0", "put t x; mv t f", "put u y; mv u f" => "f={new}; f (conflict {old})={old}";
    replace_replace_equal: "put f 0", "put t z; mv t f", "put u z; mv u f" => "f=z";
    replace_remove: "put f 0", "put t x; mv t f", "rm f" => "f=x";
    replace_rename: "put f 0", "put t x; mv t f", "mv f g" => "f=x";
    replace_attributes: "put f 0", "put t x; mv t f", "chmod f 600" => "f=x";
    replace_old_edit: "put a 0; put b 1", "mv a b", "put b y" => "b=y; b (conflict x)=0";
    replace_old_remove: "put a 0; put b 1", "mv a b", "rm a" => "";

    // Saves through names that stay on one machine: a temporary file renamed over it, the old version renamed aside.
    save_edit: "put f 0", "put t~ x; mv t~ f", "put f y" => "f={new}; f (conflict {old})={old}";
    save_save: "put f 0", "put t~ x; mv t~ f", "put t~ y; mv t~ f" => "f={new}; f (conflict {old})={old}";
    save_save_equal: "put f 0", "put t~ z; mv t~ f", "put t~ z; mv t~ f" => "f=z";
    save_remove: "put f 0", "put t~ x; mv t~ f", "rm f" => "f=x";
    save_rename: "put f 0", "put t~ x; mv t~ f", "mv f g" => "f=x";
    save_attributes: "put f 0", "put t~ x; mv t~ f", "chmod f 600" => "f=x";
    backup_edit: "put f 0", "put f 1; mv f f~; put f xx", "put f yy" => "f=xx; f (conflict y)=yy / f=yy; f (conflict x)=xx";
    backup_remove: "put f 0", "put f 1; mv f f~; put f xx", "rm f" => "f=xx";
    backup_backup: "put f 0", "put f 1; mv f f~; put f xx", "put f 2; mv f f~; put f yy"
        => "f=xx; f (conflict y)=yy / f=yy; f (conflict x)=xx";
    ignored_created: "", "put n~ x", "put n~ y" => "";
    ignored_directory_removed: "mkdir d; put d/f 0", "put d/n~ x", "rm d" => "";
    swap_swap: "put a 0; put b 1", "swap a b", "swap a b" => "a=1; b=0";
    swap_rename: "put a 0; put b 1", "swap a b", "mv a c" => "a=1; b=0 | a=1; c=0";
    swap_remove: "put a 0; put b 1", "swap a b", "rm a" => "a=1";

    // Another kind of thing under the same name.
    type_change_edit: "put f 0", "rm f; mkdir f; put f/i x", "put f y" => "f/; f/i=x; f (conflict y)=y";
    type_change_remove: "put f 0", "rm f; mkdir f; put f/i x", "rm f" => "f/; f/i=x";
    type_change_rename: "put f 0", "rm f; mkdir f; put f/i x", "mv f g" => "f/; f/i=x";
    type_change_type_change: "put f 0", "rm f; mkdir f; put f/i x", "rm f; ln f y" => "f/; f/i=x; f (conflict y)->y";
    type_change_directory_new_child: "mkdir d; put d/f 0", "rm d; put d x", "put d/new y" => "d/; d/new=y; d (conflict x)=x";
    type_change_to_symlink_edit: "put f 0", "rm f; ln f x", "put f y" => "f->x; f (conflict y)=y / f=y; f (conflict x)->x";

    // Attributes only.
    attributes_attributes: "put f 0", "chmod f 600", "chmod f 755" => "f=0 [600] | f=0 [755]";
    attributes_equal: "put f 0", "chmod f 600", "chmod f 600" => "f=0 [600]";
    mode_and_mtime: "put f 0", "chmod f 600", "touch f" => "f=0 [600] @y";
    mtime_mtime: "put f 0", "touch f", "touch f" => "f=0 @x | f=0 @y";
    mtime_rename: "put f 0", "touch f", "mv f g" => "g=0 @x";
    mtime_edit: "put f 0", "touch f", "put f y" => "f=y";
    directory_attributes_remove: "mkdir d", "chmod d 700", "rm d" => "";
    directory_attributes_new_child: "mkdir d", "chmod d 700", "put d/f y" => "d/ [700]; d/f=y";
    xattrs_of_two_names: "put f 0", "attr f a 1", "attr f b 2" => "f=0 {a=1,b=2}";
    xattrs_of_one_name: "put f 0", "attr f a 1", "attr f a 2" => "f=0 {a=1} | f=0 {a=2}";
    xattrs_edit: "put f 0", "attr f a 1", "put f y" => "f=y {a=1}";
    xattrs_remove: "put f 0", "attr f a 1", "rm f" => "";
    owner_owner: "put f 0", "chown f 1", "chown f 2" => "f=0 (1) | f=0 (2)";
    owner_equal: "put f 0", "chown f 1", "chown f 1" => "f=0 (1)";
    owner_edit: "put f 0", "chown f 1", "put f y" => "f=y (1)";
    owner_attributes: "put f 0", "chown f 1", "chmod f 600" => "f=0 [600] (1)";
    owner_xattrs: "put f 0", "chown f 1", "attr f a 2" => "f=0 (1) {a=2}";
    owner_rename: "put f 0", "chown f 1", "mv f g" => "g=0 (1)";
    owner_remove: "put f 0", "chown f 1", "rm f" => "";
    replace_owner: "put f 0", "put t x; mv t f", "chown f 1" => "f=x";
    owner_of_directory_new_child: "mkdir d", "chown d 1", "put d/f y" => "d/ (1); d/f=y";
    owner_edited_edit: "put f 0; chown f 1", "put f x", "put f y" => "f={new} (1); f (conflict {old})={old} (1)";

    // Several names of one file.
    link_link: "put f 0", "link f g", "link f h" => "f=0; g&f; h&f";
    link_edit: "put f 0", "link f g", "put f y" => "f=y; g&f";
    link_remove: "put f 0", "link f g", "rm f" => "g=0";
    link_rename: "put f 0", "link f g", "mv f h" => "g=0; h&g";
    link_create: "put f 0", "link f g", "put g y" => "f=0; g=y; g (conflict x)&f";
    link_links_one_name: "put f 0; put g 1", "link f n", "link g n"
        => "f=0; g=1; n&f; n (conflict y)&g | f=0; g=1; n&g; n (conflict x)&f";
    link_remove_directory: "mkdir d; put f 0", "link f d/g", "rm d" => "d/; d/g=0; f&d/g";
    linked_edit_edit: "put f 0; link f g", "put f x", "put g y" => "f={new}; g&f; f (conflict {old})={old}";
    linked_remove_edit: "put f 0; link f g", "rm f", "put g y" => "g=y";
    linked_remove_other: "put f 0; link f g", "rm f", "rm g" => "g=0 | f=0";
    linked_remove_rename: "put f 0; link f g", "rm f", "mv f h" => "g=0; h&g";
    linked_remove_all: "put f 0; link f g", "rm f; rm g", "rm f" => "";
    linked_rename_rename: "put f 0; link f g", "mv f a", "mv f b" => "a=0; g&a | b=0; g&b";
    linked_rename_both: "put f 0; link f g", "mv f a", "mv g b" => "a=0; b&a";
    linked_replace_edit: "put f 0; link f g", "put t x; mv t f", "put f y" => "f=x; g=y";
}

/// What either side may do to the same small tree; `W` is what the side writes.
const CHANGES: [&str; 35] = [
    "put f W",
    "put n W",
    "rm f",
    "mv f g",
    "mv f n",
    "mv f d/n",
    "mv f d/f",
    "swap f g",
    "put t W; mv t f",
    "rm f; put f W",
    "rm f; mkdir f; put f/i W",
    "rm f; ln f W",
    "chmod f 600",
    "touch f",
    "put d/n W",
    "put d/f W",
    "rm d/f",
    "rm d",
    "rm d; put d W",
    "mv d n",
    "mv d e/d",
    "mv e d/e",
    "mv d/f f",
    "mv d/f d/n",
    "swap d e",
    "swap d/f f",
    "swap d f",
    "mkdir n; put n/i W",
    "ln n W",
    "mv d/f f; rm d; mkdir d; put d/f W",
    "link f n",
    "link f d/n",
    "link d/f n; rm d",
    "rm f; link g f",
    "link f t; mv t d/f; put f W",
];

/// How many random runs are played.
const RUNS: u64 = 200;

/// So many threads play the pairs.
const THREADS: usize = 2;

/// All pairs of them: the devices agree, and what was written is there, once.
#[test]
fn every_pair_agrees_and_keeps_what_was_written() {
    every_pair(keeps_all);
}

#[test]
fn every_pair_with_a_watched_folder_agrees_and_keeps_what_was_written() {
    every_pair(keeps_all_watched);
}

fn every_pair(keep: fn(&str, &str, &str)) {
    let before = "put f 0; put g 1; mkdir d; put d/f 2; mkdir e; put e/g 3";
    let part = |first: usize| {
        for (index, x) in CHANGES.iter().enumerate() {
            for y in CHANGES[index..].iter().skip((index + first) % THREADS).step_by(THREADS) {
                keep(before, &x.replace('W', "x"), &y.replace('W', "y"));
            }
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|first| drop(scope.spawn(move || part(first)))));
}

fn follow_many(meanwhile: Meanwhile) {
    for seed in 0..RUNS {
        follow(seed, meanwhile).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_watched_folder_that_follows_forgets_nothing() {
    follow_many(Meanwhile::Quiet);
}

#[test]
fn a_watched_folder_that_follows_while_it_is_changed_forgets_nothing() {
    follow_many(Meanwhile::Changed);
}

#[test]
fn a_watched_folder_that_follows_and_is_killed_takes_nothing_of_its_own_for_a_change() {
    follow_many(Meanwhile::Killed);
}
