;; How often each byte value comes in pages of 4 KiB, for bytecount.py.
;;
;; Four tables of 256 counts, one for each place in a word of 32 bits, stand at 0, 1024, 2048 and
;; 3072: of equal bytes in a row each then waits for none but the fourth before it.
(module
  (memory (export "memory") 9)

  ;; Count the bytes of each page from $page to $end, and write 256 counts for each to $counts.
  (func (export "count") (param $page i32) (param $end i32) (param $counts i32)
    (local $at i32) (local $next i32) (local $word i32) (local $entry i32)
    (loop $pages
      (memory.fill (i32.const 0) (i32.const 0) (i32.const 4096))
      (local.set $at (local.get $page))
      (local.set $next (i32.add (local.get $page) (i32.const 4096)))
      (loop $words
        (local.set $word (i32.load (local.get $at)))

        (local.set $entry (i32.shl (i32.and (local.get $word) (i32.const 255)) (i32.const 2)))
        (i32.store (local.get $entry)
          (i32.add (i32.load (local.get $entry)) (i32.const 1)))

        (local.set $entry
          (i32.and (i32.shr_u (local.get $word) (i32.const 6)) (i32.const 1020)))
        (i32.store offset=1024 (local.get $entry)
          (i32.add (i32.load offset=1024 (local.get $entry)) (i32.const 1)))

        (local.set $entry
          (i32.and (i32.shr_u (local.get $word) (i32.const 14)) (i32.const 1020)))
        (i32.store offset=2048 (local.get $entry)
          (i32.add (i32.load offset=2048 (local.get $entry)) (i32.const 1)))

        (local.set $entry
          (i32.and (i32.shr_u (local.get $word) (i32.const 22)) (i32.const 1020)))
        (i32.store offset=3072 (local.get $entry)
          (i32.add (i32.load offset=3072 (local.get $entry)) (i32.const 1)))

        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br_if $words (i32.lt_u (local.get $at) (local.get $next))))

      (local.set $entry (i32.const 0))
      (loop $sums
        (v128.store (local.get $counts)
          (i32x4.add
            (i32x4.add
              (v128.load (local.get $entry))
              (v128.load offset=1024 (local.get $entry)))
            (i32x4.add
              (v128.load offset=2048 (local.get $entry))
              (v128.load offset=3072 (local.get $entry)))))
        (local.set $counts (i32.add (local.get $counts) (i32.const 16)))
        (local.set $entry (i32.add (local.get $entry) (i32.const 16)))
        (br_if $sums (i32.lt_u (local.get $entry) (i32.const 1024))))

      (local.set $page (local.get $next))
      (br_if $pages (i32.lt_u (local.get $page) (local.get $end))))))
