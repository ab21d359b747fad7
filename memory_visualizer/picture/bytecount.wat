;; The information in pages of 4 KiB, for bytecount.py: each byte value that comes n times in a page
;; adds the number that a table has for n.
;;
;; Bytes are counted in four tables of 256 counts, which stand at 0, 1024, 2048 and 3072 and take
;; turns: of equal bytes in a row each then waits for none but the fourth before it.
(module
  (memory (export "memory") 10)

  ;; Write the sum for each page from $page to $end to $sums; $table has a number for 0 to 4096.
  (func (export "measure") (param $page i32) (param $end i32) (param $table i32) (param $sums i32)
    (local $at i32) (local $next i32) (local $entry i32) (local $sum i32) (local $four v128)
    (loop $pages
      (memory.fill (i32.const 0) (i32.const 0) (i32.const 4096))
      (local.set $at (local.get $page))
      (local.set $next (i32.add (local.get $page) (i32.const 4096)))
      (loop $bytes
        (local.set $entry (i32.shl (i32.load8_u (local.get $at)) (i32.const 2)))
        (i32.store (local.get $entry)
          (i32.add (i32.load (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=1 (local.get $at)) (i32.const 2)))
        (i32.store offset=1024 (local.get $entry)
          (i32.add (i32.load offset=1024 (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=2 (local.get $at)) (i32.const 2)))
        (i32.store offset=2048 (local.get $entry)
          (i32.add (i32.load offset=2048 (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=3 (local.get $at)) (i32.const 2)))
        (i32.store offset=3072 (local.get $entry)
          (i32.add (i32.load offset=3072 (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=4 (local.get $at)) (i32.const 2)))
        (i32.store (local.get $entry)
          (i32.add (i32.load (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=5 (local.get $at)) (i32.const 2)))
        (i32.store offset=1024 (local.get $entry)
          (i32.add (i32.load offset=1024 (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=6 (local.get $at)) (i32.const 2)))
        (i32.store offset=2048 (local.get $entry)
          (i32.add (i32.load offset=2048 (local.get $entry)) (i32.const 1)))
        (local.set $entry (i32.shl (i32.load8_u offset=7 (local.get $at)) (i32.const 2)))
        (i32.store offset=3072 (local.get $entry)
          (i32.add (i32.load offset=3072 (local.get $entry)) (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $bytes (i32.lt_u (local.get $at) (local.get $next))))

      (local.set $entry (i32.const 0))
      (local.set $sum (i32.const 0))
      (loop $values
        ;; The counts of four values, as places in the table.
        (local.set $four
          (i32x4.shl
            (i32x4.add
              (i32x4.add
                (v128.load (local.get $entry))
                (v128.load offset=1024 (local.get $entry)))
              (i32x4.add
                (v128.load offset=2048 (local.get $entry))
                (v128.load offset=3072 (local.get $entry))))
            (i32.const 2)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (i32.add
              (i32.add
                (i32.load (i32.add (local.get $table) (i32x4.extract_lane 0 (local.get $four))))
                (i32.load (i32.add (local.get $table) (i32x4.extract_lane 1 (local.get $four)))))
              (i32.add
                (i32.load (i32.add (local.get $table) (i32x4.extract_lane 2 (local.get $four))))
                (i32.load (i32.add (local.get $table) (i32x4.extract_lane 3 (local.get $four))))))))
        (local.set $entry (i32.add (local.get $entry) (i32.const 16)))
        (br_if $values (i32.lt_u (local.get $entry) (i32.const 1024))))

      (i32.store (local.get $sums) (local.get $sum))
      (local.set $sums (i32.add (local.get $sums) (i32.const 4)))
      (local.set $page (local.get $next))
      (br_if $pages (i32.lt_u (local.get $page) (local.get $end))))))
