;; Unpacks a block of S2, for s2.py: Snappy's format, and copies that repeat the last offset.
;;
;; The host puts the block into the memory, and asks for a place behind it to unpack to.
(module
  (memory (export "memory") 160)

  ;; Unpack the bytes from $at to $end to those from $start to $limit. Returns the end of what was
  ;; unpacked, or 0 where the block is broken.
  (func (export "unpack")
    (param $at i32) (param $end i32) (param $start i32) (param $limit i32) (result i32)
    (local $to i32) (local $tag i32) (local $length i32) (local $offset i32) (local $last i32)
    (local $bytes i32) (local $step i32)
    (local.set $to (local.get $start))
    (loop $elements
      (if (i32.ge_u (local.get $at) (local.get $end))
        (then (return (local.get $to))))
      (local.set $tag (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $length (i32.shr_u (local.get $tag) (i32.const 2)))

      ;; A literal: the length less one, or 60 to 63 for 1 to 4 bytes of it.
      (if (i32.eqz (i32.and (local.get $tag) (i32.const 3)))
        (then
          (if (i32.ge_u (local.get $length) (i32.const 60))
            (then
              (local.set $bytes (i32.sub (local.get $length) (i32.const 59)))
              (if (i32.gt_u (local.get $bytes) (i32.sub (local.get $end) (local.get $at)))
                (then (return (i32.const 0))))
              (local.set $length (call $number (local.get $at) (local.get $bytes)))
              (local.set $at (i32.add (local.get $at) (local.get $bytes)))))
          ;; Compared before one is added, which may be too much for 32 bits.
          (if (i32.ge_u (local.get $length) (i32.sub (local.get $end) (local.get $at)))
            (then (return (i32.const 0))))
          (if (i32.ge_u (local.get $length) (i32.sub (local.get $limit) (local.get $to)))
            (then (return (i32.const 0))))
          (local.set $length (i32.add (local.get $length) (i32.const 1)))
          (memory.copy (local.get $to) (local.get $at) (local.get $length))
          (local.set $at (i32.add (local.get $at) (local.get $length)))
          (local.set $to (i32.add (local.get $to) (local.get $length)))
          (br $elements)))

      ;; A copy: its tag tells how many bytes of the offset follow.
      (local.set $bytes
        (i32.shl (i32.const 1) (i32.sub (i32.and (local.get $tag) (i32.const 3)) (i32.const 1))))
      (if (i32.gt_u (local.get $bytes) (i32.sub (local.get $end) (local.get $at)))
        (then (return (i32.const 0))))
      (local.set $offset (call $number (local.get $at) (local.get $bytes)))
      (local.set $at (i32.add (local.get $at) (local.get $bytes)))
      (if (i32.eq (local.get $bytes) (i32.const 1))
        (then
          (local.set $offset
            (i32.or (local.get $offset)
              (i32.shl (i32.and (local.get $tag) (i32.const 0xe0)) (i32.const 3))))
          (local.set $length (i32.and (local.get $length) (i32.const 7)))
          (if (local.get $offset)
            (then (local.set $length (i32.add (local.get $length) (i32.const 4))))
            (else
              ;; The last offset again; 5 to 7 tell of 1 to 3 bytes of the length.
              (local.set $offset (local.get $last))
              (if (i32.lt_u (local.get $length) (i32.const 5))
                (then (local.set $length (i32.add (local.get $length) (i32.const 4))))
                (else
                  (local.set $bytes (i32.sub (local.get $length) (i32.const 4)))
                  (if (i32.gt_u (local.get $bytes) (i32.sub (local.get $end) (local.get $at)))
                    (then (return (i32.const 0))))
                  (local.set $length
                    (i32.add
                      (call $number (local.get $at) (local.get $bytes))
                      (select
                        (i32.const 8)
                        (select
                          (i32.const 260) (i32.const 65540)
                          (i32.eq (local.get $bytes) (i32.const 2)))
                        (i32.eq (local.get $bytes) (i32.const 1)))))
                  (local.set $at (i32.add (local.get $at) (local.get $bytes))))))))
        (else (local.set $length (i32.add (local.get $length) (i32.const 1)))))
      (local.set $last (local.get $offset))
      (if (i32.eqz (local.get $offset))
        (then (return (i32.const 0))))
      (if (i32.gt_u (local.get $offset) (i32.sub (local.get $to) (local.get $start)))
        (then (return (i32.const 0))))
      (if (i32.gt_u (local.get $length) (i32.sub (local.get $limit) (local.get $to)))
        (then (return (i32.const 0))))

      ;; What overlaps itself repeats: each round copies twice as much.
      (local.set $step (local.get $offset))
      (loop $rounds
        (local.set $bytes
          (select (local.get $length) (local.get $step)
            (i32.lt_u (local.get $length) (local.get $step))))
        (memory.copy
          (local.get $to) (i32.sub (local.get $to) (local.get $step)) (local.get $bytes))
        (local.set $to (i32.add (local.get $to) (local.get $bytes)))
        (local.set $length (i32.sub (local.get $length) (local.get $bytes)))
        (local.set $step (i32.shl (local.get $step) (i32.const 1)))
        (br_if $rounds (local.get $length)))
      (br $elements))
    (unreachable))

  ;; The number in 1 to 4 bytes, the lowest first.
  (func $number (param $at i32) (param $bytes i32) (result i32)
    (local $value i32) (local $shift i32)
    (loop $each
      (local.set $value
        (i32.or (local.get $value)
          (i32.shl (i32.load8_u (local.get $at)) (local.get $shift))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $shift (i32.add (local.get $shift) (i32.const 8)))
      (local.set $bytes (i32.sub (local.get $bytes) (i32.const 1)))
      (br_if $each (local.get $bytes)))
    (local.get $value)))
