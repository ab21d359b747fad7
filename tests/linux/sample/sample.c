/* Types of every kind that BTF has for C, as a kernel has them; see tests/linux/test_btf.py.
 *
 * Compiled with SAY the program prints what the compiler knows of them, as JSON.
 */

#include <stddef.h>
#include <stdint.h>

typedef uint64_t word_t;
typedef const volatile word_t *pointer_t;

enum order { FIRST, SECOND = 7, LAST = -1 };
enum wide { NARROW = 1, WIDE = 0x100000005ULL };

struct forward;

struct list_head {
	struct list_head *next, *prev;
};

struct inner {
	char letter;
	int32_t number;
};

union either {
	uint8_t octets[16];
	word_t words[2];
	struct inner inner;
};

struct plain {
	uint8_t small;
	uint16_t two;
	uint32_t four;
	word_t eight;
	pointer_t pointer;
	char name[16];
	struct list_head links;
	enum order order;
	enum wide wide;
	union either either;
	struct forward *unknown;
	int (*call)(struct inner *, unsigned long);
	const struct inner fixed;
	long matrix[3][5];
};

struct nameless {
	uint32_t before;
	union {
		struct {
			uint64_t in_struct;
			uint32_t deep;
			union {
				uint16_t deeper;
				uint8_t deepest[2];
			};
		};
		struct list_head in_union;
	};
	struct {
		uint8_t tail;
	};
	uint64_t after;
};

struct bits {
	uint32_t one : 1;
	uint32_t seven : 7;
	uint32_t rest : 24;
	uint64_t whole;
	uint8_t last : 3;
	uint8_t beside;
};

struct later {
	uint64_t small;
	/* The same name as a member of another structure has, at another place. */
	uint64_t name;
};

struct nothing {
};

struct plain plain;
struct nameless nameless;
struct bits bits;
struct later later;
struct nothing nothing;
struct forward *forward;

#ifdef SAY
#include <stdio.h>

#define MEMBER(s, m) \
	printf("  \"%s.%s\": [%zu, %zu],\n", #s, #m, offsetof(struct s, m), sizeof(((struct s *)0)->m))
#define SIZE(s) printf("  \"%s\": [%zu],\n", #s, sizeof(struct s))
#define NUMBER(e) printf("  \"= %s\": [%lld],\n", #e, (long long)(e))

int main(void)
{
	printf("{\n");
	MEMBER(list_head, next); MEMBER(list_head, prev);
	MEMBER(inner, letter); MEMBER(inner, number);
	MEMBER(plain, small); MEMBER(plain, two); MEMBER(plain, four); MEMBER(plain, eight);
	MEMBER(plain, pointer); MEMBER(plain, name); MEMBER(plain, links); MEMBER(plain, order);
	MEMBER(plain, wide); MEMBER(plain, either); MEMBER(plain, unknown); MEMBER(plain, call);
	MEMBER(plain, fixed); MEMBER(plain, matrix);
	MEMBER(nameless, before); MEMBER(nameless, in_struct); MEMBER(nameless, deep);
	MEMBER(nameless, deeper); MEMBER(nameless, deepest); MEMBER(nameless, in_union);
	MEMBER(nameless, tail); MEMBER(nameless, after);
	MEMBER(bits, whole); MEMBER(bits, beside);
	MEMBER(later, small); MEMBER(later, name);
	SIZE(list_head); SIZE(inner); SIZE(plain); SIZE(nameless); SIZE(bits); SIZE(later);
	SIZE(nothing);
	NUMBER(FIRST); NUMBER(SECOND); NUMBER(NARROW); NUMBER(WIDE);
	printf("  \"compiler\": [\"%s\"]\n}\n", __VERSION__);
	return 0;
}
#endif
